//! Protomux: channels over one stream of messages, without IO.
