//! Owns the bytes of sessions as a controller writes and reads them: masked frames, chunks of a response, events.

/// The first byte of a frame that is a whole message of text.
pub const TEXT: u8 = 0x81;
pub const BINARY: u8 = 0x82;
pub const CLOSE: u8 = 0x88;
pub const PING: u8 = 0x89;
pub const PONG: u8 = 0x8a;

/// A masked frame that begins with this byte: its flags and its opcode.
pub fn masked_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = fastrand::u32(..).to_be_bytes();
    let mut frame = vec![first];
    match payload.len() {
        length @ ..126 => frame.push(0x80 | u8::try_from(length).unwrap_or(0)),
        length @ ..0x1_0000 => {
            frame.push(0xfe);
            frame.extend(u16::try_from(length).unwrap_or(0).to_be_bytes());
        }
        length => {
            frame.push(0xff);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// Takes the first frame, once it is complete: its first byte, and its payload. A server's frame is not masked, and its
/// length is written as short as it can be.
pub fn take_frame(bytes: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let (&[first, short], _) = bytes.split_first_chunk::<2>()?;
    assert!(short < 0x80, "a server's frame is masked");
    let (begin, length) = match short {
        126 => (4, u64::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?))),
        127 => (10, u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?)),
        short => (2, u64::from(short)),
    };
    let is_shortest = match begin {
        4 => length > 125,
        10 => length > 0xffff,
        _ => true,
    };
    assert!(is_shortest, "a length of {length} in {begin} bytes");
    let end = begin + usize::try_from(length).ok()?;
    if bytes.len() < end {
        return None;
    }
    let payload = bytes[begin..end].to_vec();
    bytes.drain(..end);
    Some((first, payload))
}

/// Takes all whole chunks, and appends what is in them. Whether the last one, which is empty, was among them.
pub fn take_chunks(bytes: &mut Vec<u8>, contents: &mut Vec<u8>) -> bool {
    let mut taken = 0;
    let is_over = loop {
        let rest = &bytes[taken..];
        let Some(line) = rest.windows(2).position(|window| window == b"\r\n") else { break false };
        let digits = std::str::from_utf8(&rest[..line]).unwrap_or("not UTF-8");
        let Ok(length) = usize::from_str_radix(digits, 16) else {
            panic!("no length of a chunk: {digits:?}")
        };
        let Some(chunk) = rest.get(line + 2..line + 2 + length + 2) else { break false };
        assert!(chunk.ends_with(b"\r\n"), "a chunk is longer than its length");
        contents.extend(&chunk[..length]);
        taken += line + 2 + length + 2;
        if length == 0 {
            break true;
        }
    };
    bytes.drain(..taken);
    is_over
}

/// What stands between two empty lines of an event stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    pub comment: String,
    pub kind: String,
    pub id: String,
    pub data: String,
    pub retry: Option<u64>,
}

/// Takes the first event, once it is complete.
pub fn take_event(contents: &mut Vec<u8>) -> Option<Event> {
    let end = contents.windows(2).position(|window| window == b"\n\n")?;
    let taken: Vec<u8> = contents.drain(..end + 2).collect();
    let mut taken_event = Event::default();
    for line in String::from_utf8_lossy(&taken).lines().filter(|line| !line.is_empty()) {
        let Some((field, value)) = line.split_once(':') else { panic!("no field: {line:?}") };
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => taken_event.comment.push_str(value),
            "event" => value.clone_into(&mut taken_event.kind),
            "id" => value.clone_into(&mut taken_event.id),
            "data" => taken_event.data.push_str(value),
            "retry" => taken_event.retry = value.parse().ok(),
            _ => panic!("an unknown field: {line:?}"),
        }
    }
    Some(taken_event)
}
