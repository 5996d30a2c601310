//! The config string (`AoEr11` 3.2): a label that initiators keep with a target.

use super::target::{Outcome, Settings, Target};
use super::{After, Request};
use crate::protocol::{
    AoeError, CONFIG_STRING_MAX, ConfigArg, ConfigCommand, FrameFields, FrameWriter,
};

/// Up to 1024 octets that initiators keep with a target, of any content.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConfigString(heapless::Vec<u8, CONFIG_STRING_MAX>);

impl ConfigString {
    /// The empty string.
    pub const fn new() -> Self {
        Self(heapless::Vec::new())
    }

    /// A string of these octets; `None` when there are more than 1024.
    pub fn from_octets(octets: &[u8]) -> Option<Self> {
        heapless::Vec::from_slice(octets).ok().map(Self)
    }

    /// Its octets.
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

impl Target {
    /// Answers a config query.
    pub(super) fn config(&mut self, request: &Request<'_>, reply: &mut [u8]) -> Outcome {
        let Ok(arg) = ConfigArg::parse(request.frame.header.arg()) else {
            return self.malformed();
        };
        let fields = self.reply_fields(request);
        let command = arg.command();
        // Reading ignores the length: aoeping claims 1024 octets of filler.
        if command == ConfigCommand::READ {
            return self.tell_config(request, &fields, command, reply);
        }
        let Some(string) = arg.string().and_then(ConfigString::from_octets) else {
            // To a broadcast, silence: each target on the segment would send this error.
            return if request.frame.destination.is_group() {
                self.malformed()
            } else {
                Outcome::Refuse(AoeError::BAD_ARGUMENT)
            };
        };
        let current = &self.settings.config_string;
        match command {
            ConfigCommand::TEST if string == *current => {
                self.tell_config(request, &fields, command, reply)
            }
            ConfigCommand::TEST_PREFIX if current.as_slice().starts_with(string.as_slice()) => {
                self.tell_config(request, &fields, command, reply)
            }
            ConfigCommand::TEST | ConfigCommand::TEST_PREFIX => Outcome::Silence,
            ConfigCommand::SET | ConfigCommand::FORCE_SET if self.is_saving() => Outcome::Park,
            // What is set already is set: the initiator missed the first reply.
            ConfigCommand::SET | ConfigCommand::FORCE_SET if string == *current => {
                self.tell_config(request, &fields, command, reply)
            }
            ConfigCommand::SET if !current.as_slice().is_empty() => {
                self.counters.aoe_errors += 1;
                let fields = fields.refusing(AoeError::CONFIG_STRING_PRESENT);
                self.tell_config(request, &fields, command, reply)
            }
            ConfigCommand::SET | ConfigCommand::FORCE_SET => {
                let config = self.config_fields(request.port, command);
                let len =
                    FrameWriter::new(reply, &fields).config(&config, string.as_slice()).finish();
                self.counters.config_queries += 1;
                let settings = Settings { config_string: string, ..self.settings.clone() };
                self.stage(settings, len)
            }
            _ => Outcome::Refuse(AoeError::BAD_ARGUMENT),
        }
    }

    /// A reply with the current string.
    fn tell_config(
        &mut self,
        request: &Request<'_>,
        fields: &FrameFields,
        command: ConfigCommand,
        reply: &mut [u8],
    ) -> Outcome {
        self.counters.config_queries += 1;
        let config = self.config_fields(request.port, command);
        let string = self.settings.config_string.as_slice();
        Outcome::Reply(FrameWriter::new(reply, fields).config(&config, string).finish(), After::Now)
    }
}
