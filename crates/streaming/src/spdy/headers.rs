//! Blocks of names and values, compressed by zlib with the dictionary of SPDY/3 (draft 3,
//! section 2.6.10).
//!
//! One compression context serves all blocks of one direction, so a block that cannot be read
//! costs the connection: the next one would not make sense.

use std::sync::LazyLock;

#[cfg(test)]
use flate2::{Compress, Compression, FlushCompress};
use flate2::{Decompress, FlushDecompress, Status};

use super::ProtocolError;

/// Bytes that a block may inflate to. A client sends three short headers.
const BLOCK: usize = 32 * 1024;
/// Headers in a block.
const COUNT: usize = 100;

/// Each with its length before it.
const WORDS: &[&str] = &[
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];

const TAIL: &str = concat!(
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505",
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request",
    "401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented",
    "503 Service Unavailable",
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun,",
    " GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,",
    "text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8",
    "charset=iso-8859-1,utf-,*,enq=0.",
);

static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = Vec::with_capacity(1423);
    for word in WORDS {
        put_text(&mut bytes, word);
    }
    bytes.extend_from_slice(TAIL.as_bytes());
    bytes
});

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Names in lower case and values, as they came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Headers(pub(crate) Vec<(String, String)>);

impl Headers {
    /// The value of a header, by its name in lower case. Of several values that were joined by
    /// NUL the first.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(n, _)| n == name)?;
        value.split('\0').next()
    }
}

/// Reads the blocks of one direction.
#[derive(Debug)]
pub(super) struct Inflater {
    zlib: Decompress,
}

impl Inflater {
    pub(super) fn new() -> Self {
        Self { zlib: Decompress::new(true) }
    }

    /// Inflates and parses one block. Names that are not text make the block malformed.
    pub(super) fn read(&mut self, block: &[u8]) -> Result<Headers, ProtocolError> {
        let plain = self.inflate(block)?;
        parse(&plain).ok_or(ProtocolError::Headers)
    }

    fn inflate(&mut self, mut input: &[u8]) -> Result<Vec<u8>, ProtocolError> {
        let mut plain = Vec::with_capacity(1024);
        loop {
            if plain.len() == plain.capacity() {
                if plain.len() >= BLOCK {
                    return Err(ProtocolError::Headers);
                }
                plain.reserve(plain.len().min(BLOCK - plain.len()));
            }
            let (read, written) = (self.zlib.total_in(), plain.len());
            let status = self.zlib.decompress_vec(input, &mut plain, FlushDecompress::Sync);
            let taken = usize::try_from(self.zlib.total_in() - read).unwrap_or(usize::MAX);
            input = input.get(taken..).unwrap_or_default();
            match status {
                Ok(Status::StreamEnd) => return Err(ProtocolError::Headers),
                // All is taken and the room was not used up: nothing is left inside either.
                Ok(Status::Ok | Status::BufError) => {
                    if input.is_empty() && plain.len() < plain.capacity() {
                        return Ok(plain);
                    }
                    if taken == 0 && plain.len() == written && plain.len() < plain.capacity() {
                        return Err(ProtocolError::Headers);
                    }
                }
                Err(error) if error.needs_dictionary().is_some() => {
                    self.zlib.set_dictionary(&DICTIONARY).map_err(|_| ProtocolError::Headers)?;
                }
                Err(_) => return Err(ProtocolError::Headers),
            }
        }
    }
}

fn parse(mut plain: &[u8]) -> Option<Headers> {
    let count = usize::try_from(take_number(&mut plain)?).ok()?;
    if count > COUNT {
        return None;
    }
    let mut headers = Headers(Vec::with_capacity(count));
    for _ in 0..count {
        let name = take_text(&mut plain)?.to_ascii_lowercase();
        let value = take_text(&mut plain)?;
        if name.is_empty() || headers.get(&name).is_some() {
            return None;
        }
        headers.0.push((name, value));
    }
    plain.is_empty().then_some(headers)
}

fn take_number(bytes: &mut &[u8]) -> Option<u32> {
    let (number, rest) = bytes.split_first_chunk::<4>()?;
    *bytes = rest;
    Some(u32::from_be_bytes(*number))
}

fn take_text(bytes: &mut &[u8]) -> Option<String> {
    let length = usize::try_from(take_number(bytes)?).ok()?;
    let (text, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    String::from_utf8(text.to_vec()).ok()
}

/// Writes the blocks of one direction, as clients do.
#[cfg(test)]
#[derive(Debug)]
pub(super) struct Deflater {
    zlib: Compress,
}

#[cfg(test)]
impl Deflater {
    pub(super) fn new() -> Result<Self, ProtocolError> {
        let mut zlib = Compress::new(Compression::fast(), true);
        zlib.set_dictionary(&DICTIONARY).map_err(|_| ProtocolError::Headers)?;
        Ok(Self { zlib })
    }

    pub(super) fn write(&mut self, headers: &Headers) -> Result<Vec<u8>, ProtocolError> {
        let mut plain = u32::try_from(headers.0.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
        for (name, value) in &headers.0 {
            put_text(&mut plain, name);
            put_text(&mut plain, value);
        }
        // Enough for one round: what does not shrink costs a few bytes more.
        let mut block = Vec::with_capacity(plain.len() + plain.len() / 8 + 128);
        let before = self.zlib.total_in();
        self.zlib
            .compress_vec(&plain, &mut block, FlushCompress::Sync)
            .map_err(|_| ProtocolError::Headers)?;
        let taken = self.zlib.total_in() - before;
        if usize::try_from(taken) != Ok(plain.len()) || block.len() == block.capacity() {
            return Err(ProtocolError::Headers);
        }
        Ok(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        Headers(pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn the_dictionary_is_that_of_the_draft() {
        assert_eq!(DICTIONARY.len(), 1423);
        // The Adler-32 that every SPDY/3 stream names after its header.
        let first = Deflater::new().unwrap().write(&Headers::default()).unwrap();
        assert_eq!(first[2..6], [0xe3, 0xc6, 0xa7, 0xc2]);
    }

    #[test]
    fn blocks_share_one_context() {
        let (mut deflater, mut inflater) = (Deflater::new().unwrap(), Inflater::new());
        let mut sizes = Vec::new();
        for _ in 0..3 {
            let sent = headers(&[("streamtype", "stdout"), ("port", "80"), ("requestid", "7")]);
            let block = deflater.write(&sent).unwrap();
            sizes.push(block.len());
            assert_eq!(inflater.read(&block).unwrap(), sent);
        }
        assert!(sizes[1] < sizes[0], "{sizes:?}");
        let none = deflater.write(&Headers::default()).unwrap();
        assert_eq!(inflater.read(&none).unwrap(), Headers::default());
    }

    #[test]
    fn of_joined_values_the_first_counts() {
        assert_eq!(headers(&[("a", "x\0y")]).get("a"), Some("x"));
        assert_eq!(headers(&[("a", "x")]).get("b"), None);
    }

    #[test]
    fn a_bomb_is_refused() {
        let mut deflater = Deflater::new().unwrap();
        let block = deflater.write(&headers(&[("a", &"x".repeat(10 * BLOCK))])).unwrap();
        assert!(block.len() < BLOCK / 4, "{}", block.len());
        assert!(Inflater::new().read(&block).is_err());
    }

    #[test]
    fn malformed_blocks_are_refused() {
        let mut deflater = Deflater::new().unwrap();
        let twice = deflater.write(&headers(&[("a", "1"), ("a", "2")])).unwrap();
        assert!(Inflater::new().read(&twice).is_err());
        let mut deflater = Deflater::new().unwrap();
        let whole = deflater.write(&headers(&[("streamtype", "data")])).unwrap();
        // All but the mark of the flush.
        for cut in 0..whole.len() - 6 {
            assert!(Inflater::new().read(&whole[..cut]).is_err(), "{cut}");
        }
        assert!(parse(&[0xff; 4]).is_none());
        assert!(parse(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]).is_none());
        assert!(parse(&[0, 0, 0, 0, 0]).is_none());
    }
}
