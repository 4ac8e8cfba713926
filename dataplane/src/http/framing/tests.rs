//! Bodies under each framing, and random bytes.

use super::{BodyDecoder, BodyFraming, Decoded, FramingError, fuzz};

/// Decodes one read, and judges the end of the connection after it.
fn decode(framing: BodyFraming, bytes: &[u8]) -> (Decoded, Result<(), FramingError>) {
    let mut decoder = BodyDecoder::new(framing);
    let decoded = decoder.decode(&mut bytes.to_vec()).unwrap();
    (decoded, decoder.at_eof())
}

/// Framing, one read, the bytes consumed, whether the body is done, what an end of the connection is then.
type Case = (BodyFraming, &'static [u8], usize, bool, Result<(), FramingError>);

#[test]
fn each_framing_ends_where_it_says() {
    let truncated = Err(FramingError::Truncated);
    let cases: [Case; 10] = [
        (BodyFraming::None, b"", 0, true, Ok(())),
        (BodyFraming::None, b"next", 0, true, Ok(())),
        (BodyFraming::Length(0), b"next", 0, true, Ok(())),
        (BodyFraming::Length(5), b"", 0, false, truncated),
        (BodyFraming::Length(5), b"hell", 4, false, truncated),
        (BodyFraming::Length(5), b"hello", 5, true, Ok(())),
        (BodyFraming::Length(5), b"hellonext", 5, true, Ok(())),
        (BodyFraming::Length(u64::MAX), b"hello", 5, false, truncated),
        (BodyFraming::UntilClose, b"", 0, false, Ok(())),
        (BodyFraming::UntilClose, b"0\r\n\r\n", 5, false, Ok(())),
    ];
    for (framing, bytes, length, done, at_eof) in cases {
        let expected = Decoded { consumed: length, data: 0..length, done };
        assert_eq!(decode(framing, bytes), (expected, at_eof), "{framing:?} {bytes:?}");
        fuzz(bytes);
    }
}

#[test]
fn an_empty_body_is_done_before_anything_is_read() {
    assert!(BodyDecoder::new(BodyFraming::None).is_done());
    assert!(BodyDecoder::new(BodyFraming::Length(0)).is_done());
    assert!(!BodyDecoder::new(BodyFraming::Length(1)).is_done());
    assert!(!BodyDecoder::new(BodyFraming::Chunked).is_done());
    assert!(!BodyDecoder::new(BodyFraming::UntilClose).is_done());
}

/// Bytes that chunked framing is made of, in an order that a fixed seed decides (xorshift64).
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let alphabet = b"0125aF\r\n\r\n\r\n;=\"\\: xg\0\xff";
    let mut state = seed;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap()
    };
    (0..length).map(|_| alphabet[next() % alphabet.len()]).collect()
}

#[test]
fn noise_is_judged_the_same_however_it_is_split() {
    for seed in 1..2000 {
        let bytes = noise(seed, 48);
        fuzz(&bytes);
        fuzz(&[b"1;a=\"", &bytes[..]].concat());
        fuzz(&[b"2\r\nab\r\n0\r\na:", &bytes[..]].concat());
    }
}
