//! What is sealed opens once, at its peer, unchanged; nothing else does.

use proptest::prelude::*;

use super::*;
use crate::tunnel::seal::window::WINDOW;

const KEY: [u8; KEY_LEN] = [7; KEY_LEN];

fn pair(suite: Suite) -> (SendKey, OpenKey) {
    let send = SendKey::new(suite, &KEY, 0x0403_0201).unwrap();
    (send, OpenKey::new(suite, &KEY, 0x0403_0201).unwrap())
}

fn sealed(key: &SendKey, payload: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0; HEADER_LEN + payload.len() + TAG_LEN];
    datagram[HEADER_LEN..][..payload.len()].copy_from_slice(payload);
    key.seal(0, (0, 0), &mut datagram).unwrap();
    datagram
}

fn open(key: &mut OpenKey, datagram: &[u8]) -> Result<Vec<u8>, OpenError> {
    let mut datagram = datagram.to_vec();
    let opened = key.open(&mut datagram, 0)?;
    Ok(datagram[..opened.len].to_vec())
}

#[test]
fn what_is_sealed_can_be_opened_where_the_caller_wants_it() {
    for suite in Suite::ALL {
        let (send, mut receive) = pair(suite);
        for at in [0, 1, 10, 64] {
            let mut datagram = vec![0xee; at];
            let mut tail = vec![0; HEADER_LEN + 5 + TAG_LEN];
            tail[HEADER_LEN..][..5].copy_from_slice(b"hello");
            send.seal(PARTIAL, (34, 16), &mut tail).unwrap();
            datagram.extend(tail);
            let opened = receive.open(&mut datagram, at).unwrap();
            assert_eq!(&datagram[..opened.len], b"hello");
            assert_eq!((opened.flags, opened.csum), (PARTIAL, (34, 16)));
            assert!(opened.newest);
        }
        assert_eq!((send.sealed(), receive.stats().opened()), (4, 4));
        assert_eq!(receive.stats().bytes(), 20);
    }
}

#[test]
fn an_empty_payload_is_a_datagram_too() {
    let (send, mut receive) = pair(Suite::ChaCha20Poly1305);
    assert_eq!(open(&mut receive, &sealed(&send, b"")), Ok(vec![]));
}

#[test]
fn a_replay_is_refused_and_so_is_what_left_the_window() {
    let (send, mut receive) = pair(Suite::Aes256Gcm);
    let first = sealed(&send, b"first");
    let second = sealed(&send, b"second");
    assert_eq!(open(&mut receive, &second), Ok(b"second".to_vec()));
    assert_eq!(open(&mut receive, &first), Ok(b"first".to_vec()), "late");
    assert_eq!(open(&mut receive, &first), Err(OpenError::Replayed));
    assert_eq!(open(&mut receive, &second), Err(OpenError::Replayed));
    let late = sealed(&send, b"late");
    drop(send.reserve(u16::try_from(WINDOW).unwrap() - 1, 100));
    let newest = sealed(&send, b"newest");
    assert!(open(&mut receive, &newest).is_ok());
    assert_eq!(open(&mut receive, &late), Err(OpenError::Old));
    assert_eq!(receive.stats().stale(), 3);
}

#[test]
fn an_older_one_does_not_say_where_the_peer_is() {
    let (send, mut receive) = pair(Suite::fastest());
    let mut first = sealed(&send, b"first");
    let mut second = sealed(&send, b"second");
    assert!(receive.open(&mut second, 0).unwrap().newest);
    assert!(!receive.open(&mut first, 0).unwrap().newest);
}

#[test]
fn every_bit_is_covered() {
    for suite in Suite::ALL {
        let (send, mut receive) = pair(suite);
        let good = sealed(&send, b"payload");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&mut receive, &bad).is_err(), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(open(&mut receive, &good[..len]).is_err(), "length {len}");
        }
        assert_eq!(
            open(&mut receive, &good),
            Ok(b"payload".to_vec()),
            "a forgery takes no number from the window"
        );
        assert!(receive.stats().forged() > 0);
    }
}

#[test]
fn another_key_and_another_session_are_told_apart() {
    let (send, mut receive) = pair(Suite::Aes256Gcm);
    let mut other = OpenKey::new(Suite::Aes256Gcm, &[8; KEY_LEN], 0x0403_0201).unwrap();
    let datagram = sealed(&send, b"x");
    assert_eq!(receiver(&datagram), Some(0x0403_0201));
    assert_eq!(open(&mut other, &datagram), Err(OpenError::Forged));
    let mut other = OpenKey::new(Suite::Aes256Gcm, &KEY, 1).unwrap();
    assert_eq!(open(&mut other, &datagram), Err(OpenError::Index));
    let mut other = OpenKey::new(Suite::ChaCha20Poly1305, &KEY, 0x0403_0201).unwrap();
    assert_eq!(open(&mut other, &datagram), Err(OpenError::Forged));
    assert_eq!(open(&mut receive, &[1; 60]), Err(OpenError::Header));
    assert_eq!(receiver(&[1; 60]), None);
}

#[test]
fn what_was_reserved_is_the_most_that_is_sealed() {
    let (send, mut receive) = pair(Suite::Aes256Gcm);
    let mut reserved = send.reserve(2, 40).unwrap();
    let mut datagram = vec![0; 40];
    assert_eq!(
        reserved.seal(0, (0, 0), &mut [0; 41]),
        Err(SealError::Length)
    );
    assert_eq!(
        reserved.seal(0, (0, 0), &mut [0; 31]),
        Err(SealError::Length)
    );
    for _ in 0..2 {
        datagram.fill(0);
        reserved.seal(0, (0, 0), &mut datagram).unwrap();
        assert_eq!(open(&mut receive, &datagram), Ok(vec![0; 8]));
    }
    assert_eq!(
        reserved.seal(0, (0, 0), &mut datagram),
        Err(SealError::Exhausted)
    );
    send.close();
    assert_eq!(
        send.seal(0, (0, 0), &mut datagram),
        Err(SealError::Exhausted)
    );
}

proptest! {
    /// Whatever the bytes: no panic, and nothing opens that was not sealed.
    #[test]
    fn noise_opens_nothing(mut bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0usize..220) {
        let (_, mut receive) = pair(Suite::Aes256Gcm);
        if let Some(head) = bytes.get_mut(at..).filter(|b| b.len() >= 8) {
            head[..8].copy_from_slice(&[DATA, 0, 0, 0, 1, 2, 3, 4]);
        }
        prop_assert!(receive.open(&mut bytes, at).is_err());
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Test vectors, as Python's `cryptography` makes them too: key of bytes 00..1f, index 0x01020304, the second datagram of the key, flags 1, offsets 34 and 6.
#[test]
fn vectors() {
    let key: [u8; KEY_LEN] = core::array::from_fn(|i| u8::try_from(i).unwrap());
    let expected = [
        (
            Suite::Aes256Gcm,
            "0401220604030201010000000000000096f2145c1ba5322829f82902048e5ed7a90d1a7a63aaa9dced17352a",
        ),
        (
            Suite::ChaCha20Poly1305,
            "04012206040302010100000000000000ec329233d04e83385ed3c8280f0287f8b25270ee5e7aa1b69634b219",
        ),
    ];
    for (suite, expected) in expected {
        let send = SendKey::new(suite, &key, 0x0102_0304).unwrap();
        drop(send.reserve(1, 0));
        let mut datagram = vec![0; HEADER_LEN + 12 + TAG_LEN];
        datagram[HEADER_LEN..][..12].copy_from_slice(b"sealed, weft");
        send.seal(PARTIAL, (34, 6), &mut datagram).unwrap();
        assert_eq!(hex(&datagram), expected, "{}", suite.name());
    }
}

#[test]
fn what_is_long_is_known_until_it_was_asked_for() {
    let (send, _) = pair(Suite::ChaCha20Poly1305);
    let mut datagram = vec![0; LONG + 1];
    send.seal(0, (0, 0), &mut datagram[..LONG]).unwrap();
    send.seal(CONTROL, (0, 0), &mut datagram).unwrap();
    let _numbers = send.reserve(9, LONG).unwrap();
    assert!(!send.has_long(), "short ones, and a control message");
    send.seal(0, (0, 0), &mut datagram).unwrap();
    assert!(send.has_long() && send.take_long() && !send.take_long());
    let _numbers = send.reserve(2, LONG + 1).unwrap();
    assert!(send.take_long());
}
