//! A resolver for the tests, in raw bytes, so that no library stands on both sides.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use super::netns::Namespace;
use super::servers;

/// Type numbers, RFC 1035 section 3.2.2 and RFC 3596.
const A: u16 = 1;
const AAAA: u16 = 28;
const CLASS_IN: u16 = 1;
/// Answers above this go over TCP only, RFC 1035 section 4.2.1.
const UDP_MAX: usize = 512;

/// A resolver that runs.
#[derive(Debug)]
pub(crate) struct Resolver {
    /// The names that were asked for.
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
    /// How many questions came over TCP.
    pub(crate) over_tcp: Arc<AtomicUsize>,
    /// And over how many connections.
    pub(crate) connections: Arc<AtomicUsize>,
}

/// Serves `zone` at port 53 of `ip`, over UDP and TCP.
pub(crate) fn serve(at: &Namespace, ip: impl Into<IpAddr>, zone: &[(&str, &[IpAddr])]) -> Resolver {
    start(at, ip.into(), zone, usize::MAX)
}

/// As `serve`, but nobody listens on TCP.
pub(crate) fn serve_udp(
    at: &Namespace,
    ip: impl Into<IpAddr>,
    zone: &[(&str, &[IpAddr])],
) -> Resolver {
    start(at, ip.into(), zone, 0)
}

/// As `serve`, but closes each connection after one answer.
pub(crate) fn serve_one_by_one(
    at: &Namespace,
    ip: impl Into<IpAddr>,
    zone: &[(&str, &[IpAddr])],
) -> Resolver {
    start(at, ip.into(), zone, 1)
}

/// Takes queries at port 53 of `ip`, over UDP and TCP, and never answers. Returns how many came.
pub(crate) fn silent(at: &Namespace, ip: impl Into<IpAddr>) -> Arc<AtomicUsize> {
    let address = SocketAddr::from((ip.into(), 53));
    let count = Arc::new(AtomicUsize::new(0));
    let socket = at.enter(|| UdpSocket::bind(address)).unwrap();
    let counter = Arc::clone(&count);
    thread::spawn(move || {
        while socket.recv(&mut [0; 512]).is_ok() {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    let counter = Arc::clone(&count);
    servers::tcp(at, address, move |mut stream, _| {
        counter.fetch_add(1, Ordering::Relaxed);
        stream.read_to_end(&mut Vec::new()).map(|_| ())
    });
    count
}

/// `most` are the questions that it answers on one connection; without any, nobody listens on TCP.
fn start(at: &Namespace, ip: IpAddr, zone: &[(&str, &[IpAddr])], most: usize) -> Resolver {
    let zone: BTreeMap<String, Vec<IpAddr>> = zone
        .iter()
        .map(|(name, ips)| ((*name).to_owned(), ips.to_vec()))
        .collect();
    let zone = Arc::new(zone);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let resolver = Resolver {
        asked: Arc::clone(&asked),
        over_tcp: Arc::default(),
        connections: Arc::default(),
    };
    let address = SocketAddr::from((ip, 53));

    let (udp_zone, udp_asked) = (Arc::clone(&zone), Arc::clone(&asked));
    servers::udp(at, address, move |query, _| {
        let mut reply = answer(query, &udp_zone, &udp_asked).unwrap_or_default();
        if reply.len() > UDP_MAX {
            // Truncated: the header and the question only.
            reply.truncate(question_end(query).unwrap_or(12));
            if let Some(flags) = reply.get_mut(2) {
                *flags |= 0x02;
            }
            if let Some(counts) = reply.get_mut(6..12) {
                counts.fill(0);
            }
        }
        reply
    });
    if most == 0 {
        return resolver;
    }
    let (counter, connections) = (&resolver.over_tcp, &resolver.connections);
    let (counter, connections) = (Arc::clone(counter), Arc::clone(connections));
    servers::tcp(at, address, move |mut stream, _| {
        connections.fetch_add(1, Ordering::Relaxed);
        for _ in 0..most {
            let Some(query) = read_message(&mut stream)? else {
                break;
            };
            counter.fetch_add(1, Ordering::Relaxed);
            let reply = answer(&query, &zone, &asked).unwrap_or_default();
            let length = u16::try_from(reply.len()).unwrap_or(0).to_be_bytes();
            stream.write_all(&[&length, &*reply].concat())?;
        }
        Ok(())
    });
    resolver
}

/// Reads a message behind its length; nothing at the end of the stream.
fn read_message(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 2];
    match stream.read_exact(&mut length) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    Ok(Some(message))
}

/// Where the first question ends: behind its name, type and class.
fn question_end(message: &[u8]) -> Option<usize> {
    let mut at = 12;
    loop {
        let len = usize::from(*message.get(at)?);
        at += 1 + len;
        if len == 0 {
            return Some(at + 4);
        }
    }
}

/// The name of the first question, with dots, in small letters.
fn name(message: &[u8]) -> Option<String> {
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let len = usize::from(*message.get(at)?);
        if len == 0 {
            return Some(labels.join("."));
        }
        let label = message.get(at + 1..at + 1 + len)?;
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += 1 + len;
    }
}

fn answer(
    query: &[u8],
    zone: &BTreeMap<String, Vec<IpAddr>>,
    asked: &Mutex<Vec<String>>,
) -> Option<Vec<u8>> {
    let end = question_end(query)?;
    let name = name(query)?;
    asked.lock().unwrap().push(name.clone());
    let kind = u16::from_be_bytes([*query.get(end - 4)?, *query.get(end - 3)?]);
    let records: Vec<Vec<u8>> = zone
        .get(&name)
        .into_iter()
        .flatten()
        .filter_map(|ip| match (kind, ip) {
            (A, IpAddr::V4(ip)) => Some(ip.octets().to_vec()),
            (AAAA, IpAddr::V6(ip)) => Some(ip.octets().to_vec()),
            _ => None,
        })
        .collect();
    let mut reply = query.get(..2)?.to_vec();
    // Response, recursion desired and available; NXDOMAIN for names that are not in the zone.
    reply.extend([
        0x81,
        if zone.contains_key(&name) { 0x80 } else { 0x83 },
        0,
        1,
    ]);
    reply.extend(u16::try_from(records.len()).ok()?.to_be_bytes());
    reply.extend([0; 4]);
    reply.extend(query.get(12..end)?);
    for data in records {
        // The name is the question's; it may be kept a minute.
        reply.extend([0xc0, 12]);
        reply.extend(kind.to_be_bytes());
        reply.extend(CLASS_IN.to_be_bytes());
        reply.extend(60_u32.to_be_bytes());
        reply.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
        reply.extend(data);
    }
    Some(reply)
}

/// Makes a query for the addresses of `name`.
pub(crate) fn query(id: u16, name: &str, v6: bool) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend((if v6 { AAAA } else { A }).to_be_bytes());
    message.extend(CLASS_IN.to_be_bytes());
    message
}
