// Commands of `peer.js` about replication itself: what is pushed, messages of extensions, and what the replicator counted.
'use strict'

const b4a = require('b4a')
const c = require('compact-encoding')

// `cores` by name; `until` waits for a condition; `block` makes the bytes of a block.
module.exports = function replication(cores, until, block) {
  const heard = new Map()

  return {
    async allowPush({ name }) {
      cores.get(name).core.replicator.setAllowPush(true)
      return {}
    },

    // Waits until a peer takes what is pushed, then pushes a block.
    async push({ name, index }) {
      const { replicator } = cores.get(name).core
      await until(() => replicator.peers.some((peer) => peer.remoteAllowPush), 'a peer that takes pushed blocks')
      await replicator.push(index)
      return {}
    },

    // Has the core ask for nothing, and live of what is pushed.
    async pushOnly({ name, on }) {
      const { replicator } = cores.get(name).core
      replicator.setAllowPush(true)
      replicator.setPushOnly(on)
      return {}
    },

    // Appends `count` blocks of one size and pushes each, without waiting for what peers make of it.
    async appendAndPush({ name, seed, count, size }) {
      const core = cores.get(name)
      const pushes = []
      for (; count > 0; count--) {
        await core.append(block(seed, core.length, size))
        pushes.push(core.core.replicator.push(core.length - 1))
      }
      await Promise.all(pushes)
      return {}
    },

    // Waits for a length, as a reader that asks for it by itself.
    async readable({ name, length }) {
      const core = cores.get(name)
      await core.update()
      await until(() => core.length === length, `length ${length}, is ${core.length}`)
      return {}
    },

    // The blocks that are held, once they are as many and the core is as long.
    async holds({ name, count, length }) {
      const core = cores.get(name)
      const held = async () => {
        const indexes = []
        for (let i = 0; i < core.length; i++) if (await core.has(i)) indexes.push(i)
        return indexes
      }
      let last = []
      const enough = async () => (last = await held()).length >= count && core.length === length
      await until(enough, `${count} blocks of ${length}`).catch((err) => {
        throw new Error(`${err.message}, has ${last} of ${core.length}`)
      })
      return { held: last }
    },

    // A snapshot of a core, under a name of its own.
    async snapshot({ name, as }) {
      const snapshot = cores.get(name).snapshot()
      await snapshot.ready()
      cores.set(as, snapshot)
      return {}
    },

    // What is held of a core or snapshot, at some places and where a byte lies.
    async peek({ name, indexes, bytes }) {
      const core = cores.get(name)
      const blocks = []
      for (const index of indexes) {
        const value = await core.get(index, { wait: false })
        blocks.push(value && b4a.toString(value, 'hex'))
      }
      return { length: core.length, blocks, seek: await core.seek(bytes, { wait: false }) }
    },

    // A block that is asked for although the core asks for nothing.
    async getForced({ name, index }) {
      return { size: (await cores.get(name).get(index, { force: true, timeout: 30000 })).byteLength }
    },

    async extension({ name, extension }) {
      const messages = []
      heard.set(name + ' ' + extension, messages)
      // As they are: the default encoding puts a length in front.
      const onmessage = (message) => messages.push(b4a.toString(message))
      cores.get(name).registerExtension(extension, { encoding: c.raw, onmessage })
      return {}
    },

    // Says `messages`, in their order, to every peer.
    async broadcast({ name, extension, messages }) {
      const core = cores.get(name)
      await until(() => core.peers.length > 0, 'a peer')
      for (const message of messages) core.extensions.get(extension).broadcast(b4a.from(message))
      return {}
    },

    async heard({ name, extension, count }) {
      const messages = heard.get(name + ' ' + extension)
      await until(() => messages.length >= count, `${count} messages, has ${messages.length}`)
      return { messages }
    },

    // How many messages of each kind went over the wire.
    async counts({ name }) {
      return cores.get(name).core.replicator.stats
    }
  }
}
