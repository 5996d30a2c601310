//! The other end of the socket: asking a running server.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::answer::Refusal;
use super::request::Request;

/// The most octets of a line that a server sends: its status with 1024 targets is a megabyte.
const ANSWER_MAX: u64 = 16 << 20;
/// A server that is well says something every second.
const SILENCE: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// Nobody can be reached.
    #[error("cannot reach a server at {}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It went away, or says nothing, in the middle of it. What was asked for may have been done.
    #[error("the server at {} does not answer", path.display())]
    Silent {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What it says makes no sense.
    #[error("what listens at {} is no such server, or one of another version", path.display())]
    Strange {
        /// The socket.
        path: PathBuf,
    },
    /// It does not do it.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// A connection to a running server.
#[derive(Debug)]
pub struct Caller {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Caller {
    /// Connects to the server that listens at `path`.
    ///
    /// # Errors
    /// [`CallError::Unreachable`].
    pub fn connect(path: impl AsRef<Path>) -> Result<Self, CallError> {
        let path = path.as_ref().to_path_buf();
        let connected = UnixStream::connect(&path).and_then(|stream| {
            stream.set_read_timeout(Some(SILENCE))?;
            stream.set_write_timeout(Some(SILENCE))?;
            Ok(stream)
        });
        match connected {
            Ok(stream) => Ok(Self { path, stream: BufReader::new(stream) }),
            Err(source) => Err(CallError::Unreachable { path, source }),
        }
    }

    /// Asks for something, and waits for the answer. Pieces of it that come before go to `item`, and
    /// every second that passes is told to `wait`.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn ask(
        &mut self,
        request: &Request,
        item: &mut dyn FnMut(Value),
        wait: &mut dyn FnMut(&Value),
    ) -> Result<Value, CallError> {
        let mut line = request.to_json().to_string();
        line.push('\n');
        let sent = self.stream.get_mut().write_all(line.as_bytes());
        // A server that has too many clients says so and closes without having read anything.
        let unsent = sent.err();
        loop {
            let mut line = Vec::new();
            let read = self.stream.by_ref().take(ANSWER_MAX).read_until(b'\n', &mut line);
            if let Err(source) = read {
                return Err(self.silent(source));
            }
            if line.last() != Some(&b'\n') {
                let end = io::Error::from(io::ErrorKind::UnexpectedEof);
                return Err(self.silent(unsent.unwrap_or(end)));
            }
            let strange = || CallError::Strange { path: self.path.clone() };
            let mut answer: Value = serde_json::from_slice(&line).map_err(|_| strange())?;
            let mut field = |key: &str| answer.get_mut(key).map(Value::take);
            if let Some(value) = field("ok") {
                return Ok(value);
            } else if let Some(error) = field("error") {
                return Err(Refusal::from_json(&error).map_or_else(strange, Into::into));
            } else if let Some(value) = field("item") {
                item(value);
            } else if let Some(value) = field("progress") {
                wait(&value);
            } else {
                return Err(strange());
            }
        }
    }

    fn silent(&self, source: io::Error) -> CallError {
        CallError::Silent { path: self.path.clone(), source }
    }
}
