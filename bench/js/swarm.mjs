// A drive from a peer to another that knows only its key, over a DHT on loopback.
import Corestore from 'corestore'
import HyperDHT from 'hyperdht'
import Hyperdrive from 'hyperdrive'
import Hyperswarm from 'hyperswarm'
import Localdrive from 'localdrive'

import { Content } from './content.mjs'

const HOST = '127.0.0.1'

const ready = (value) => process.stdout.write(JSON.stringify({ ready: value }) + '\n')
const inputEnds = () => new Promise((resolve) => process.stdin.on('end', resolve).resume())

function join(store, bootstrap, { server }) {
  const swarm = new Hyperswarm({ dht: new HyperDHT({ host: HOST, bootstrap }) })
  swarm.on('connection', (connection) => {
    connection.on('error', () => {})
    store.replicate(connection)
  })
  return { swarm, join: (topic) => swarm.join(topic, { server, client: !server }) }
}

export const tasks = {
  // DHT nodes that know each other, until standard input ends.
  async testnet({ nodes }) {
    const node = async (bootstrap) => {
      const dht = new HyperDHT({ host: HOST, bootstrap, ephemeral: false, firewalled: false })
      await dht.fullyBootstrapped()
      return dht
    }
    const first = await node([])
    const bootstrap = [{ host: HOST, port: first.address().port }]
    for (let count = 1; count < nodes; count++) await node(bootstrap)
    ready(bootstrap[0])
    await inputEnds()
  },

  // Mirrors `source` into a drive and serves it, until standard input ends.
  async seed({ dir, source, bootstrap }) {
    const store = new Corestore(dir)
    const drive = new Hyperdrive(store)
    await drive.ready()
    await new Localdrive(source).mirror(drive, { batch: true }).done()
    const { swarm, join: announce } = join(store, [bootstrap], { server: true })
    await announce(drive.discoveryKey).flushed()
    ready({ key: drive.key.toString('hex') })
    await inputEnds()
    await swarm.destroy()
    await store.close()
  },

  // Gets the whole drive: from asking the DHT for it until every block is stored. `files` are those to be there:
  // [name, bytes], made of the content's blocks of up to 64 KiB.
  async follow({ dir, key, bootstrap, files }, measure) {
    const store = new Corestore(dir)
    const { swarm, join: look } = join(store, [bootstrap], { server: false })
    await swarm.dht.fullyBootstrapped()
    measure.noteRest()
    const bytes = files.reduce((sum, [, bytes]) => sum + bytes, 0)
    const blocks = files.reduce((sum, [, bytes]) => sum + Math.ceil(bytes / (64 << 10)), 0)
    let drive = null
    await measure.time(bytes / 1e6, async () => {
      drive = new Hyperdrive(store, Buffer.from(key, 'hex'))
      await drive.ready()
      const found = drive.findingPeers()
      look(drive.discoveryKey).flushed().then(found, found)
      await drive.update({ wait: true })
      const { core } = await drive.getBlobs()
      const entries = drive.core.download({ start: 0, end: drive.core.length }).done()
      while (core.length < blocks) await new Promise((resolve) => core.once('append', resolve))
      await Promise.all([entries, core.download({ start: 0, end: blocks }).done()])
    })
    await swarm.destroy()
    const content = new Content()
    for (const [name, bytes] of files) {
      const data = await drive.get(name)
      if (data.byteLength !== bytes) throw new Error(`${name} has ${data.byteLength} bytes instead of ${bytes}`)
      const size = Math.min(bytes, 64 << 10)
      for (let start = 0; start < bytes; start += size) {
        content.check(data.subarray(start, start + size), start / size, size)
      }
    }
    await store.close()
  }
}
