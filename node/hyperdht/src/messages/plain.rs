//! Values that this node neither asks for nor serves, but that others send around.

use std::net::SocketAddrV4;

use bytes::Bytes;
use cumulet_encoding::{DecodeError, Reader, Writer};

use super::option;
use crate::Hash;
use crate::address;

/// A key with nodes that know its owner, as people hand it around (npm `hyperdht-address` 1.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedAddress {
    /// The peer's public key.
    pub key: Hash,
    /// Nodes to ask first.
    pub nodes: Option<Vec<SocketAddrV4>>,
}

impl SharedAddress {
    /// Reads an address.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let key = reader.fixed()?;
        let flags = reader.uint()?;
        let nodes = option(flags & 1 != 0, || address::read_array(&mut reader))?;
        Ok(Self { key, nodes })
    }

    /// The address's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.fixed(&self.key).uint(u64::from(self.nodes.is_some()));
        if let Some(nodes) = &self.nodes {
            address::write_array(&mut writer, nodes);
        }
        writer.into_vec()
    }
}

/// Value of the command PLUGIN: a request to an extension of a node. We have none, and answer as any unknown command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginRequest {
    /// The extension's name.
    pub plugin: String,
    /// Its version.
    pub version: u64,
    /// What is asked of it.
    pub command: u64,
    /// The request's own value.
    pub value: Option<Bytes>,
}

impl PluginRequest {
    /// Reads a request.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        Ok(Self {
            plugin: reader.string()?.into_owned(),
            version: reader.uint()?,
            command: reader.uint()?,
            value: {
                let flags = reader.uint()?;
                option(flags & 1 != 0, || reader.buffer().map(Bytes::copy_from_slice))?
            },
        })
    }

    /// The request's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer
            .string(&self.plugin)
            .uint(self.version)
            .uint(self.command)
            .uint(u64::from(self.value.is_some()));
        if let Some(value) = &self.value {
            writer.buffer(value);
        }
        writer.into_vec()
    }
}
