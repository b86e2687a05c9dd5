//! The servers of a file.

use std::{
    env, io,
    io::Read,
    path::Path,
    time::{Duration, Instant},
};

use ureq::{Agent, Body, Proxy, ProxyBuilder, ProxyProtocol, http::Response};

use super::{
    FetchEvent, Remote,
    part::{Origin, Part},
    room,
};
use crate::files::{atomic, checksum::BUFFER, kind};

/// The maximum number of redirects followed for a file.
pub(super) const MAX_REDIRECTS: u32 = 8;

/// How long a server may take.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// The timeout for connecting, for a response and for each read.
    pub answer: Duration,
    /// The time in which at least `least` bytes must arrive.
    pub window: Duration,
    pub least: u64,
}

pub(super) const PATIENCE: Patience =
    Patience { answer: Duration::from_secs(30), window: Duration::from_secs(60), least: 60 * 1024 };

/// Why a transfer ended early.
pub(super) enum Broken {
    Server(String),
    Disk(io::Error),
}

/// Downloads the rest of a file whose part may be here; returns whether that is kept.
pub(super) fn transfer(
    patience: Patience,
    url: &str,
    remote: &Remote,
    file: &Path,
    part: &mut Part,
    observe: &mut dyn FnMut(FetchEvent),
) -> Result<bool, Broken> {
    let expected = &remote.expected;
    let mut here = part.len().map_err(Broken::Disk)?;
    if here > 0 && expected.bytes == Some(here) {
        // The earlier process was killed between the transfer and the check.
        return Ok(true);
    }
    if expected.bytes.is_some_and(|bytes| here > bytes) {
        // It is longer than the file, so it is part of another file.
        part.clear().map_err(Broken::Disk)?;
        here = 0;
    }
    let named = &*without_user(url);
    let origin = part.origin().filter(|origin| server_of(&origin.url) == server_of(named));
    let is_same_file = |origin: &Origin| origin.url == named && !origin.version.is_empty();
    let may_go_on = expected.is_checked() || origin.as_ref().is_some_and(is_same_file);
    let start = if may_go_on { here } else { 0 };
    let agent = agent(url, patience)?;
    observe(FetchEvent::Downloading { url: named, file, done: start, bytes: expected.bytes });
    let ask = |from: u64| {
        let mut request = agent.get(url);
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
            // The server sends the whole file if it has changed since.
            if let Some(origin) = origin.as_ref().filter(|origin| !origin.version.is_empty()) {
                request = request.header("If-Range", &origin.version);
            }
        }
        request.call().map_err(|error| Broken::Server(error.to_string()))
    };
    let mut response = ask(start)?;
    let goes_on = start > 0
        && response.status() == 206
        && header(&response, "content-range").starts_with(&format!("bytes {start}-"))
        && (expected.is_checked() || has_version_of(&response, origin.as_ref()));
    // There is no such range, another one was sent, or one of another version.
    if start > 0 && !goes_on && matches!(response.status().as_u16(), 206 | 416) {
        response = ask(0)?;
    }
    let kept = if goes_on { here } else { 0 };
    let incoming = Incoming {
        origin: Origin { url: named.to_owned(), version: version(&response).to_owned() },
        done: kept,
        old: here - kept,
        total: total(&response, kept),
        expected: expected.bytes,
        most: remote.most,
    };
    incoming.check(&response)?;
    if let Some(length) = incoming.length() {
        room(atomic::folder_of(file), length.saturating_sub(here)).map_err(Broken::Disk)?;
    }
    incoming.receive(response.into_body().into_reader(), part, patience, observe)?;
    Ok(goes_on)
}

/// The version of the file that a server states; empty if it states none.
fn version(response: &Response<Body>) -> &str {
    // A weak tag promises the same meaning, not the same bytes.
    let tag = Some(header(response, "etag")).filter(|tag| tag.starts_with('"'));
    tag.unwrap_or(header(response, "last-modified"))
}

/// Whether a server sends the version that a part is of. It may leave out what `If-Range` has stated.
fn has_version_of(response: &Response<Body>, origin: Option<&Origin>) -> bool {
    ["", origin.map_or("", |origin| &origin.version)].contains(&version(response))
}

/// The length of the whole file in bytes, if the server states it, of which this many are kept.
fn total(response: &Response<Body>, kept: u64) -> Option<u64> {
    let rest: Option<u64> = header(response, "content-length").parse().ok();
    let stated = header(response, "content-range").rsplit('/').next().and_then(|total| total.parse().ok());
    stated.filter(|_| kept > 0).or(rest.map(|rest| kept.saturating_add(rest)))
}

/// What asks servers.
fn agent(url: &str, patience: Patience) -> Result<Agent, Broken> {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(MAX_REDIRECTS)
        .timeout_connect(Some(patience.answer))
        .timeout_recv_response(Some(patience.answer))
        .timeout_per_read(Some(patience.answer))
        .proxy(if is_local(url) { None } else { proxy(url)? });
    Ok(config.build().into())
}

/// The proxy that the environment names, if any: the first that can be used. Addresses in NO_PROXY need none.
fn proxy(url: &str) -> Result<Option<Proxy>, Broken> {
    const NAMES: [&str; 6] =
        ["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"];
    let value = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let given = NAMES.into_iter().filter_map(|name| Some((name, value(name)?)));
    let given: Vec<(&str, String)> = given.collect();
    let Some((first, _)) = given.first() else { return Ok(None) };
    let is_http = |proxy: &Proxy| matches!(proxy.protocol(), ProxyProtocol::Http | ProxyProtocol::Https);
    let usable = given.iter().find_map(|(_, text)| Proxy::new(text).ok().filter(is_http));
    let direct = value("NO_PROXY").or_else(|| value("no_proxy")).unwrap_or_default();
    let builder = Proxy::builder(usable.as_ref().map_or(ProxyProtocol::Http, Proxy::protocol));
    let mut builder = direct.split(',').map(str::trim).fold(builder, ProxyBuilder::no_proxy);
    if let Some(proxy) = &usable {
        builder = builder.host(proxy.host()).port(proxy.port());
        builder = proxy.username().into_iter().fold(builder, ProxyBuilder::username);
        builder = proxy.password().into_iter().fold(builder, ProxyBuilder::password);
    }
    let proxy = builder.build().map_err(|error| Broken::Server(error.to_string()))?;
    let is_direct = url.parse().is_ok_and(|url| proxy.is_no_proxy(&url));
    if usable.is_none() && !is_direct {
        return Err(Broken::Server(format!(
            "the proxy in {first} cannot be used: it must be the address of an HTTP proxy, such as http://proxy:8080"
        )));
    }
    Ok(usable.map(|_| proxy))
}

/// A file that a server sends.
struct Incoming {
    origin: Origin,
    /// The bytes already there, to which the rest is appended.
    done: u64,
    /// Bytes that cannot be resumed from, kept until the first bytes of the new transfer arrive.
    old: u64,
    /// The length of the whole file in bytes, if the server states it.
    total: Option<u64>,
    /// The length of the whole file in bytes, if it is published.
    expected: Option<u64>,
    /// The maximum bytes of a file whose length is not published.
    most: u64,
}

impl Incoming {
    fn most(&self) -> u64 {
        self.expected.unwrap_or(self.most)
    }

    /// The length of the whole file in bytes, if it is known.
    fn length(&self) -> Option<u64> {
        self.total.or(self.expected)
    }

    /// Checks the head of a response.
    fn check(&self, response: &Response<Body>) -> Result<(), Broken> {
        if !response.status().is_success() {
            return Err(Broken::Server(format!("the server answered {}", response.status())));
        }
        if header(response, "content-type").starts_with("text/html") {
            return Err(Broken::Server("the server sent an HTML page in place of the file".to_owned()));
        }
        match (self.total, self.expected) {
            (Some(total), _) if total > self.most() => Err(self.too_long(total)),
            // What is here may be part of the file, unlike this.
            (Some(total), Some(bytes)) if total < bytes => {
                Err(Broken::Server(format!("the file has {total} bytes, expected {bytes}")))
            }
            _ => Ok(()),
        }
    }

    fn too_long(&self, length: u64) -> Broken {
        Broken::Server(match self.expected {
            Some(bytes) => format!("the file has {length} bytes or more, expected {bytes}"),
            None => format!("the file has more than {} bytes", self.most),
        })
    }

    fn receive(
        self,
        mut body: impl Read,
        part: &mut Part,
        patience: Patience,
        observe: &mut dyn FnMut(FetchEvent),
    ) -> Result<(), Broken> {
        let mut done = self.done;
        let (mut buffer, mut filled) = (vec![0; BUFFER], 0);
        let (mut since, mut in_window) = (Instant::now(), 0);
        loop {
            let length =
                body.read(&mut buffer[filled..]).map_err(|error| Broken::Server(error.to_string()))?;
            filled += length;
            in_window += length as u64;
            if since.elapsed() > patience.window {
                if in_window < patience.least {
                    let rate = patience.least / patience.window.as_secs().max(1);
                    return Err(Broken::Server(format!("the server sends less than {rate} bytes a second")));
                }
                (since, in_window) = (Instant::now(), 0);
            }
            // The first bytes show whether the server sends a page.
            if done == 0 && filled < kind::START && length > 0 {
                continue;
            }
            let piece = &buffer[..filled];
            if done == 0
                && let Some(what) = if piece.is_empty() { Some("an empty file") } else { kind::page(piece) }
            {
                return Err(Broken::Server(format!("the server sent {what} in place of the file")));
            }
            if done + filled as u64 > self.most() {
                // It is not part of the file.
                if done > 0 {
                    part.clear().map_err(Broken::Disk)?;
                }
                return Err(self.too_long(done + filled as u64));
            }
            if done == 0 {
                if self.old > 0 {
                    part.clear().map_err(Broken::Disk)?;
                }
                part.set_origin(&self.origin).map_err(Broken::Disk)?;
            }
            part.append(piece).map_err(Broken::Disk)?;
            done += piece.len() as u64;
            if !piece.is_empty() {
                observe(FetchEvent::Received { done, total: self.length() });
            }
            filled = 0;
            if length == 0 {
                break;
            }
        }
        if let Some(total) = self.length().filter(|&total| done < total) {
            return Err(Broken::Server(format!("the connection closed after {done} of {total} bytes")));
        }
        part.sync().map_err(Broken::Disk)
    }
}

/// Whether a URL is of this machine, for which a proxy is not asked.
fn is_local(url: &str) -> bool {
    let url = without_user(url);
    let host = server_of(&url).unwrap_or_default();
    ["localhost", "127.0.0.1", "[::1]"]
        .iter()
        .any(|local| host.strip_prefix(local).is_some_and(|port| port.is_empty() || port.starts_with(':')))
}

/// A URL without the name and the password of a user.
pub(super) fn without_user(url: &str) -> String {
    let shown = || {
        let (scheme, rest) = url.split_once("://")?;
        let (server, path) = rest.find('/').map_or((rest, ""), |end| rest.split_at(end));
        let (_, server) = server.rsplit_once('@')?;
        Some(format!("{scheme}://{server}{path}"))
    };
    shown().unwrap_or_else(|| url.to_owned())
}

/// The host and port in a URL.
fn server_of(url: &str) -> Option<&str> {
    url.split('/').nth(2)
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> &'a str {
    response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_and_the_password_of_a_user_are_not_shown() {
        for (url, shown) in [
            ("http://user:pass@host:80/a@b", "http://host:80/a@b"),
            ("http://host/a@b", "http://host/a@b"),
            ("https://user@host", "https://host"),
            ("file", "file"),
        ] {
            assert_eq!(without_user(url), shown);
        }
    }

    #[test]
    fn this_machine_is_told_by_its_name() {
        let urls = [
            "http://localhost:80/a",
            "http://user:pass@localhost:80/a",
            "http://[::1]/a",
            "http://localhost.example/a",
            "http://example/localhost",
        ];
        assert_eq!(urls.map(is_local), [true, true, true, false, false]);
    }
}
