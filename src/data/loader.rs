//! Prefetching: batches are made on another thread while the network runs.

use std::sync::mpsc::sync_channel;

/// The maximum number of results made in advance.
const AHEAD: usize = 2;

/// Calls `take` with the results of `make` for all tasks, in order. Another thread makes them, a few in
/// advance; it stops when `take` returns. On a thread of rayon's pool, which `make` may need, the results are
/// made when they are taken.
///
/// # Panics
/// If `make` panics.
pub fn prefetch<Task: Send, T: Send, R>(
    tasks: impl IntoIterator<Item = Task, IntoIter: Send>,
    make: impl Fn(Task) -> T + Send,
    take: impl FnOnce(&mut dyn Iterator<Item = T>) -> R,
) -> R {
    let tasks = tasks.into_iter();
    if rayon::current_thread_index().is_some() {
        return take(&mut tasks.map(make));
    }
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(AHEAD);
        scope.spawn(move || {
            for task in tasks {
                if sender.send(make(task)).is_err() {
                    break;
                }
            }
        });
        // Dropped after `take`, so that the thread stops.
        take(&mut receiver.into_iter())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn results_are_in_order_and_prefetching_is_bounded() {
        let all: Vec<usize> = prefetch(0..100, |i| i * i, |made| made.collect());
        assert_eq!(all, (0..100).map(|i| i * i).collect::<Vec<_>>());
        let made = AtomicUsize::new(0);
        let first = prefetch(0..100, |i| (made.fetch_add(1, Ordering::Relaxed), i).1, |made| made.next());
        assert_eq!(first, Some(0));
        assert!(made.into_inner() <= AHEAD + 2);
    }

    #[test]
    fn pool_threads_do_not_wait_for_each_other() {
        use rayon::prelude::*;
        let sum = |_| prefetch(0..10, |i| (0..i).into_par_iter().sum::<usize>(), |made| made.sum::<usize>());
        let sums: Vec<usize> = (0..64).into_par_iter().map(sum).collect();
        assert_eq!(sums, [120; 64]);
    }
}
