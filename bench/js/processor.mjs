// What one core of the processor can hash and encrypt.
import b4a from 'b4a'
import crypto from 'hypercore-crypto'
import sodium from 'sodium-native'

import { Content } from './content.mjs'

const BLOCK_BYTES = 64 << 10
const BLOCKS = 128
const PER_MIB = (1 << 20) / BLOCK_BYTES

function blocks() {
  const content = new Content()
  return Array.from({ length: BLOCKS }, (_, index) => content.block(index, BLOCK_BYTES))
}

export const tasks = {
  // Leaf hashes: BLAKE2b-256.
  async hash({ mib }, measure) {
    const all = blocks()
    await measure.time(mib, async () => {
      for (let i = 0; i < mib * PER_MIB; i++) crypto.data(all[i % BLOCKS])
    })
  },

  // libsodium's secretstream, sealed and opened again. Counted is what is sealed and what is opened.
  async encrypt({ mib }, measure) {
    const all = blocks()
    const key = b4a.alloc(sodium.crypto_secretstream_xchacha20poly1305_KEYBYTES, 7)
    const header = b4a.alloc(sodium.crypto_secretstream_xchacha20poly1305_HEADERBYTES)
    const push = b4a.alloc(sodium.crypto_secretstream_xchacha20poly1305_STATEBYTES)
    const pull = b4a.alloc(sodium.crypto_secretstream_xchacha20poly1305_STATEBYTES)
    sodium.crypto_secretstream_xchacha20poly1305_init_push(push, header, key)
    sodium.crypto_secretstream_xchacha20poly1305_init_pull(pull, header, key)
    const sealed = b4a.alloc(BLOCK_BYTES + sodium.crypto_secretstream_xchacha20poly1305_ABYTES)
    const opened = b4a.alloc(BLOCK_BYTES)
    const tag = b4a.alloc(sodium.crypto_secretstream_xchacha20poly1305_TAGBYTES)
    const message = sodium.crypto_secretstream_xchacha20poly1305_TAG_MESSAGE
    await measure.time(mib, async () => {
      for (let i = 0; i < (mib * PER_MIB) / 2; i++) {
        sodium.crypto_secretstream_xchacha20poly1305_push(push, sealed, all[i % BLOCKS], null, message)
        sodium.crypto_secretstream_xchacha20poly1305_pull(pull, opened, tag, sealed, null)
      }
    })
    if (!b4a.equals(opened, all[((mib * PER_MIB) / 2 - 1) % BLOCKS])) throw new Error('what was opened is not what was sealed')
  }
}
