//! The protobuf wire format, as far as ONNX needs it (protobuf.dev/programming-guides/encoding):
//! a reader that borrows and copies nothing, and a writer.

use super::error::OnnxError;

/// What a field holds on the wire.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    /// A string, a message, or packed numbers: the bytes, and where they start in the file.
    Bytes(Reader<'a>),
    Fixed32(u32),
}

/// A position in a message. `offset` counts from the start of the file, for errors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            offset: 0,
        }
    }

    pub(super) fn bytes(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn error(&self, expected: &'static str) -> OnnxError {
        OnnxError::Wire {
            offset: self.offset,
            expected,
        }
    }

    /// The bytes as text.
    pub(super) fn text(&self) -> Result<&'a str, OnnxError> {
        std::str::from_utf8(self.rest).map_err(|_| self.error("UTF-8 text"))
    }

    fn take(&mut self, len: usize) -> Option<Reader<'a>> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        let offset = self.offset;
        self.rest = rest;
        self.offset += len;
        Some(Reader {
            rest: taken,
            offset,
        })
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.rest.try_into().ok()
    }

    /// A varint of at most 10 bytes; bits beyond the 64th are dropped, as protobuf says.
    pub(super) fn varint(&mut self) -> Result<u64, OnnxError> {
        let mut value = 0u64;
        for i in 0..10 {
            let Some([byte]) = self.array::<1>() else {
                return Err(self.error("a varint"));
            };
            value |= u64::from(byte & 0x7f) << (7 * i).min(63);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.error("a varint of at most 10 bytes"))
    }

    pub(super) fn fixed32(&mut self) -> Result<u32, OnnxError> {
        let bytes = self.array().ok_or_else(|| self.error("4 bytes"))?;
        Ok(u32::from_le_bytes(bytes))
    }

    pub(super) fn fixed64(&mut self) -> Result<u64, OnnxError> {
        let bytes = self.array().ok_or_else(|| self.error("8 bytes"))?;
        Ok(u64::from_le_bytes(bytes))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next field and its number; `None` at the end of the message.
    pub(super) fn field(&mut self) -> Result<Option<(u32, Wire<'a>)>, OnnxError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let start = *self;
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).ok().filter(|&n| n > 0);
        let number = number.ok_or_else(|| start.error("a field number"))?;
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(self.fixed64()?),
            2 => {
                let len = self.varint()?;
                let len = usize::try_from(len).ok();
                let taken = len.and_then(|len| self.take(len));
                Wire::Bytes(taken.ok_or_else(|| start.error("a length inside the message"))?)
            }
            5 => Wire::Fixed32(self.fixed32()?),
            _ => return Err(start.error("a wire type of 0, 1, 2 or 5")),
        };
        Ok(Some((number, wire)))
    }
}

impl<'a> Wire<'a> {
    /// Text or a message.
    pub(super) fn bytes(self, at: &Reader<'_>) -> Result<Reader<'a>, OnnxError> {
        match self {
            Self::Bytes(reader) => Ok(reader),
            _ => Err(at.error("a field of bytes before this")),
        }
    }

    pub(super) fn text(self, at: &Reader<'_>) -> Result<&'a str, OnnxError> {
        self.bytes(at)?.text()
    }

    pub(super) fn int(self, at: &Reader<'_>) -> Result<i64, OnnxError> {
        match self {
            Self::Varint(value) => Ok(value as i64),
            _ => Err(at.error("a field of one integer before this")),
        }
    }

    pub(super) fn float(self, at: &Reader<'_>) -> Result<f32, OnnxError> {
        match self {
            Self::Fixed32(bits) => Ok(f32::from_bits(bits)),
            _ => Err(at.error("a field of one float before this")),
        }
    }

    /// Integers, packed or one.
    pub(super) fn ints(self, at: &Reader<'_>, to: &mut Vec<i64>) -> Result<(), OnnxError> {
        match self {
            Self::Varint(value) => to.push(value as i64),
            Self::Bytes(mut packed) => {
                while !packed.is_empty() {
                    to.push(packed.varint()? as i64);
                }
            }
            _ => return Err(at.error("a field of integers before this")),
        }
        Ok(())
    }

    /// Floats, packed or one.
    pub(super) fn floats(self, at: &Reader<'_>, to: &mut Vec<f32>) -> Result<(), OnnxError> {
        match self {
            Self::Fixed32(bits) => to.push(f32::from_bits(bits)),
            Self::Bytes(mut packed) => {
                while !packed.is_empty() {
                    to.push(f32::from_bits(packed.fixed32()?));
                }
            }
            _ => return Err(at.error("a field of floats before this")),
        }
        Ok(())
    }

    /// Doubles, packed or one.
    pub(super) fn doubles(self, at: &Reader<'_>, to: &mut Vec<f64>) -> Result<(), OnnxError> {
        match self {
            Self::Fixed64(bits) => to.push(f64::from_bits(bits)),
            Self::Bytes(mut packed) => {
                while !packed.is_empty() {
                    to.push(f64::from_bits(packed.fixed64()?));
                }
            }
            _ => return Err(at.error("a field of doubles before this")),
        }
        Ok(())
    }
}

/// Appends fields to a message.
#[derive(Debug, Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub(super) fn int(&mut self, field: u32, value: i64) {
        self.varint(u64::from(field) << 3);
        self.varint(value as u64);
    }

    pub(super) fn float(&mut self, field: u32, value: f32) {
        self.varint(u64::from(field) << 3 | 5);
        self.0.extend(value.to_le_bytes());
    }

    pub(super) fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
    }

    pub(super) fn text(&mut self, field: u32, text: &str) {
        self.bytes(field, text.as_bytes());
    }

    pub(super) fn message(&mut self, field: u32, fill: impl FnOnce(&mut Writer)) {
        let mut inner = Writer::default();
        fill(&mut inner);
        self.bytes(field, &inner.0);
    }

    /// Integers, one field each: what every reader understands.
    pub(super) fn ints(&mut self, field: u32, values: impl IntoIterator<Item = i64>) {
        for value in values {
            self.int(field, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back() {
        let mut writer = Writer::default();
        writer.int(1, -1);
        writer.int(2, 300);
        writer.float(3, 1.5);
        writer.message(40, |inner| inner.text(1, "é"));
        let mut reader = Reader::new(&writer.0);
        let mut next = || reader.field().unwrap();
        let at = Reader::new(&[]);
        assert!(matches!(next(), Some((1, wire)) if wire.int(&at).unwrap() == -1));
        assert!(matches!(next(), Some((2, Wire::Varint(300)))));
        assert!(matches!(next(), Some((3, wire)) if wire.float(&at).unwrap() == 1.5));
        let Some((40, Wire::Bytes(mut inner))) = next() else {
            panic!()
        };
        assert!(
            matches!(inner.field().unwrap(), Some((1, wire)) if wire.text(&at).unwrap() == "é")
        );
        assert!(next().is_none());
    }

    #[test]
    fn broken_bytes_are_errors_with_an_offset() {
        let offset = |bytes: &[u8]| {
            let mut reader = Reader::new(bytes);
            loop {
                match reader.field() {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("no error"),
                    Err(OnnxError::Wire { offset, .. }) => return offset,
                    Err(other) => panic!("{other}"),
                }
            }
        };
        assert_eq!(offset(&[0x08, 0x01, 0x12, 0x05, 0x00]), 2);
        assert_eq!(offset(&[0x0b]), 0);
        assert_eq!(offset(&[0x08, 0x80]), 2);
        assert_eq!(offset(&[0x00, 0x00]), 0);
        assert_eq!(offset(&[0xff; 12]), 10);
        let huge = [
            0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
        ];
        assert_eq!(offset(&huge), 0);
    }
}
