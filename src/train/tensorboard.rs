//! Scalars for TensorBoard: records of TensorFlow's `event.proto`, of which this is a subset. Existing crates
//! need protoc to build, or old versions of our dependencies.

use std::time::{SystemTime, UNIX_EPOCH};

use crc::{CRC_32_ISCSI, Crc};
use prost::Message;

const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// A record with one scalar, measured now.
pub(super) fn scalar(tag: &str, step: usize, value: f64) -> Vec<u8> {
    // A clock before 1970 is not an error.
    let wall_time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    record(wall_time, tag, step, value)
}

fn record(wall_time: f64, tag: &str, step: usize, value: f64) -> Vec<u8> {
    let value = Value { tag: tag.to_owned(), simple_value: Some(value as f32) };
    let event = Event { wall_time, step: step as i64, summary: Some(Summary { value: vec![value] }) };
    let event = event.encode_to_vec();
    let length = (event.len() as u64).to_le_bytes();
    [&length[..], &checksum(&length), &event, &checksum(&event)].concat()
}

/// The masked CRC of TFRecord files: rotated and offset, because data may itself contain CRCs.
fn checksum(bytes: &[u8]) -> [u8; 4] {
    CRC.checksum(bytes).rotate_right(15).wrapping_add(0xA282_EAD8).to_le_bytes()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Tag, step and value of each scalar in a file.
    pub fn scalars(mut bytes: &[u8]) -> Vec<(String, i64, f32)> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let (head, rest) = bytes.split_at(12);
            assert_eq!(checksum(&head[..8]), head[8..]);
            let (event, rest) = rest.split_at(u64::from_le_bytes(head[..8].try_into().unwrap()) as usize);
            assert_eq!(checksum(event), rest[..4]);
            let event = Event::decode(event).unwrap();
            let value = event.summary.unwrap().value.remove(0);
            found.push((value.tag, event.step, value.simple_value.unwrap()));
            bytes = &rest[4..];
        }
        found
    }

    /// The output of TensorBoard 2.21's `RecordWriter` for `Event(wall_time=1.0, step=7,
    /// summary=Summary(value=[Summary.Value(tag="loss", simple_value=1.5)]))`.
    #[test]
    fn a_record_matches_tensorboard() {
        let golden = [
            26, 0, 0, 0, 0, 0, 0, 0, 18, 155, 216, 45, 9, 0, 0, 0, 0, 0, 0, 240, 63, 16, 7, 42, 13, 10, 11,
            10, 4, 108, 111, 115, 115, 21, 0, 0, 192, 63, 222, 50, 112, 151,
        ];
        assert_eq!(record(1.0, "loss", 7, 1.5), golden);
        assert_eq!(scalars(&scalar("loss", 7, 1.5)), [("loss".to_owned(), 7, 1.5)]);
    }
}
