// One core over TCP on loopback.
import net from 'node:net'

import NoiseSecretStream from '@hyperswarm/secret-stream'
import Corestore from 'corestore'

import { Content } from './content.mjs'

const HOST = '127.0.0.1'

function replicate(store, socket, isInitiator) {
  socket.setNoDelay(true)
  socket.on('error', () => {})
  const stream = new NoiseSecretStream(isInitiator, socket)
  stream.on('error', () => {})
  store.replicate(stream)
  return stream
}

export const tasks = {
  // Serves the core that an append left, until standard input ends.
  async serve({ dir }) {
    const store = new Corestore(dir)
    const core = store.get({ name: 'core' })
    await core.ready()
    const server = net.createServer((socket) => replicate(store, socket, false))
    await new Promise((resolve) => server.listen(0, HOST, resolve))
    const ready = { port: server.address().port, key: core.key.toString('hex') }
    process.stdout.write(JSON.stringify({ ready }) + '\n')
    await new Promise((resolve) => process.stdin.on('end', resolve).resume())
    await store.close()
  },

  // Gets all of it: from connecting until every block is stored.
  async fetch({ dir, port, key, size, count, unit }, measure) {
    const content = new Content()
    const store = new Corestore(dir)
    const core = store.get({ key: Buffer.from(key, 'hex') })
    await core.ready()
    let stream = null
    await measure.time(unit === 'MiB' ? (count * size) / 2 ** 20 : count, async () => {
      const socket = net.connect(port, HOST)
      await new Promise((resolve, reject) => socket.once('connect', resolve).once('error', reject))
      stream = replicate(store, socket, true)
      await core.update({ wait: true })
      await core.download({ start: 0, end: core.length }).done()
    })
    stream.destroy()
    if (core.length !== count) throw new Error(`${core.length} blocks instead of ${count}`)
    for (let index = 0; index < count; index++) {
      content.check(await core.get(index, { wait: false }), index, size)
    }
    await store.close()
  }
}
