//! Chunked bodies that are decoded, each whole and split at every byte. What is refused:
//! `tests/hostile/chunked`.

use super::{EXTENSION_BYTES_MAX, TRAILER_BYTES_MAX, fuzz};
use crate::http::framing::{BodyDecoder, BodyFraming, Decoded, FramingError};

fn decode(wire: &[u8]) -> Result<(Vec<u8>, Decoded), FramingError> {
    fuzz(wire);
    let mut bytes = wire.to_vec();
    let decoded = BodyDecoder::new(BodyFraming::Chunked).decode(&mut bytes)?;
    Ok((bytes[decoded.data.clone()].to_vec(), decoded))
}

#[test]
fn bodies_are_decoded_to_their_data() {
    let cases: &[(&str, &str, &str)] = &[
        ("no data", "0\r\n\r\n", ""),
        ("one chunk", "5\r\nhello\r\n0\r\n\r\n", "hello"),
        ("several chunks", "5\r\nhello\r\n1\r\n,\r\n6\r\n world\r\n0\r\n\r\n", "hello, world"),
        ("digits of both cases", "a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", "01234567890123456789"),
        ("leading zeros", "0000000000000005\r\nhello\r\n0000\r\n\r\n", "hello"),
        ("line ends in the data", "4\r\n\r\n\r\n\r\n0\r\n\r\n", "\r\n\r\n"),
        ("extensions", "5;a;b=c;d=\"e;\\\"f\\\\ \tg\"\r\nhello\r\n0;z=1\r\n\r\n", "hello"),
        ("empty quoted extension", "5;a=\"\"\r\nhello\r\n0\r\n\r\n", "hello"),
        ("trailers", "5\r\nhello\r\n0\r\nDigest: x y\r\nEmpty:\r\n\r\n", "hello"),
    ];
    for (name, wire, data) in cases {
        let (body, decoded) = decode(wire.as_bytes()).expect(name);
        assert_eq!(body, data.as_bytes(), "{name}");
        assert_eq!((decoded.consumed, decoded.done), (wire.len(), true), "{name}");
        // What follows is surplus, whatever it is.
        let (body, decoded) = decode(&[wire.as_bytes(), b"5\r\nHTTP/1.1 200"].concat()).expect(name);
        assert_eq!(
            (body, decoded.consumed, decoded.done),
            (data.as_bytes().to_vec(), wire.len(), true),
            "{name}"
        );
    }
}

#[test]
fn one_chunk_in_one_read_is_not_moved() {
    let mut bytes = b"5\r\nhello\r\n0\r\n\r\n".to_vec();
    let decoded = BodyDecoder::new(BodyFraming::Chunked).decode(&mut bytes).unwrap();
    assert_eq!(decoded.data, 3..8);
    assert_eq!(bytes, b"5\r\nhello\r\n0\r\n\r\n");
}

#[test]
fn later_chunks_move_up_to_the_first() {
    let mut bytes = b"5\r\nhello\r\n3\r\nabc\r\n".to_vec();
    let decoded = BodyDecoder::new(BodyFraming::Chunked).decode(&mut bytes).unwrap();
    assert_eq!(decoded, Decoded { consumed: bytes.len(), data: 3..11, done: false });
    assert_eq!(&bytes[3..11], b"helloabc");
}

#[test]
fn data_is_handed_on_before_its_chunk_is_whole() {
    let mut decoder = BodyDecoder::new(BodyFraming::Chunked);
    let mut first = b"ffffffffffffffff\r\nhello".to_vec();
    assert_eq!(decoder.decode(&mut first).unwrap().data, 18..23);
    let mut second = b" world".to_vec();
    assert_eq!(decoder.decode(&mut second), Ok(Decoded { consumed: 6, data: 0..6, done: false }));
    assert_eq!(decoder.at_eof(), Err(FramingError::Truncated));
}

#[test]
fn nothing_is_consumed_after_the_end() {
    let mut decoder = BodyDecoder::new(BodyFraming::Chunked);
    assert!(decoder.decode(&mut b"0\r\n\r\n".to_vec()).unwrap().done);
    let surplus = Ok(Decoded { consumed: 0, data: 0..0, done: true });
    assert_eq!(decoder.decode(&mut b"5\r\nhello\r\n".to_vec()), surplus);
    assert_eq!(decoder.at_eof(), Ok(()));
}

#[test]
fn extensions_up_to_the_limit_pass_on_each_line() {
    let extension = |bytes: u16| format!(";{}", "a".repeat(usize::from(bytes) - 1));
    let wire = |bytes| format!("1{0}\r\nx\r\n1{0}\r\ny\r\n0{0}\r\n\r\n", extension(bytes));
    assert_eq!(decode(wire(EXTENSION_BYTES_MAX).as_bytes()).unwrap().0, b"xy");
    assert_eq!(decode(wire(EXTENSION_BYTES_MAX + 1).as_bytes()), Err(FramingError::ExtensionTooLong));
}

#[test]
fn trailers_up_to_the_limit_pass() {
    let wire = |bytes: u16| format!("0\r\na:{}\r\n\r\n", "b".repeat(usize::from(bytes) - 4));
    assert!(decode(wire(TRAILER_BYTES_MAX).as_bytes()).unwrap().1.done);
    assert_eq!(decode(wire(TRAILER_BYTES_MAX + 1).as_bytes()), Err(FramingError::TrailerTooLong));
}

#[test]
fn every_byte_but_those_of_the_grammar_is_refused_in_each_place() {
    let hexadecimal = |byte: u8| byte.is_ascii_hexdigit();
    for byte in 0..=255u8 {
        let first = decode(&[byte]).is_ok();
        assert_eq!(first, hexadecimal(byte), "first byte {byte:#x}");
        let second = decode(&[b'1', byte]).is_ok();
        assert_eq!(second, hexadecimal(byte) || byte == b'\r' || byte == b';', "second byte {byte:#x}");
        assert_eq!(decode(&[b'1', b'\r', byte]).is_ok(), byte == b'\n', "after the size line's CR {byte:#x}");
        assert_eq!(
            decode(&[b'1', b'\r', b'\n', b'x', byte]).is_ok(),
            byte == b'\r',
            "after the data {byte:#x}"
        );
    }
}
