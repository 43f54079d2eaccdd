// Commands of `peer.js` about replication itself: what is pushed, messages of extensions, and what the replicator counted.
'use strict'

const b4a = require('b4a')
const c = require('compact-encoding')

// `cores` by name; `until` waits for a condition.
module.exports = function replication(cores, until) {
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
