//! Why a request was not carried out.

use std::error::Error;
use std::fmt;

use serde_json::{Value, json};

use crate::server::ServerError;

/// What kind of a refusal it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusalKind {
    /// The request makes no sense.
    Malformed,
    /// The answer is no: there is no such volume, or one already; somebody uses it.
    Refused,
    /// It could not be done, or not be told: an I/O error, damage, a server that stops.
    Failed,
    /// There are too many clients.
    Busy,
}

impl RefusalKind {
    const ALL: [Self; 4] = [Self::Malformed, Self::Refused, Self::Failed, Self::Busy];

    const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Busy => "busy",
        }
    }
}

/// Why a request was not carried out, for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What kind of a refusal it is.
    pub kind: RefusalKind,
    /// What is wrong, and what to do about it.
    pub message: String,
}

impl Refusal {
    pub(super) fn malformed(message: impl Into<String>) -> Self {
        Self { kind: RefusalKind::Malformed, message: message.into() }
    }

    pub(super) fn refused(message: impl Into<String>) -> Self {
        Self { kind: RefusalKind::Refused, message: message.into() }
    }

    pub(super) fn failed(message: impl Into<String>) -> Self {
        Self { kind: RefusalKind::Failed, message: message.into() }
    }

    /// As it is sent.
    pub(super) fn to_json(&self) -> Value {
        json!({ "error": { "kind": self.kind.name(), "message": self.message } })
    }

    /// From what [`Self::to_json`] has under `error`.
    pub(super) fn from_json(value: &Value) -> Option<Self> {
        let [kind, message] = ["kind", "message"].map(|key| value.get(key)?.as_str());
        let kind = RefusalKind::ALL.into_iter().find(|known| Some(known.name()) == kind);
        // A kind of a later version leaves the question open.
        let kind = kind.unwrap_or(RefusalKind::Failed);
        Some(Self { kind, message: message?.into() })
    }
}

/// An error with what is behind it, on one line.
struct Chain<'e>(&'e dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

pub(super) fn message_of(error: &dyn Error) -> String {
    format!("{}", Chain(error))
}

impl From<ServerError> for Refusal {
    fn from(error: ServerError) -> Self {
        let message = message_of(&error);
        let is_no = match &error {
            ServerError::Claimed { .. }
            | ServerError::Address(_)
            | ServerError::NotExported { .. }
            | ServerError::NotOpen { .. } => true,
            #[cfg(feature = "cas")]
            ServerError::Target {
                source: crate::server::TargetError::Archive(crate::server::ArchiveError::Archive(e)),
                ..
            } => super::perform::is_no(e),
            ServerError::Target {
                source: crate::server::TargetError::Interface { .. }, ..
            } => true,
            _ => false,
        };
        if is_no { Self::refused(message) } else { Self::failed(message) }
    }
}
