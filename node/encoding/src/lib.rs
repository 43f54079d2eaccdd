//! compact-encoding: the integer, buffer and array codecs of the Hypercore protocols.
