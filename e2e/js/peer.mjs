// A real JavaScript peer, driven over standard input and output: one JSON object per line.
//
//   {"id": 1, "do": "start", "storage": DIR, "host": IP, "bootstrap": [{"host", "port"}], "key": HEX or absent}
//   {"id": 2, "do": "put", "path": "/a.txt", "base64": …} or {"…", "file": PATH} or {"…", "link": TARGET}, "executable": bool
//   {"id": 3, "do": "delete", "path": "/a.txt"}
//   {"id": 4, "do": "hashes"}        every entry with the SHA-256 of its content, read through the drive
//   {"id": 5, "do": "download"}      fetch everything from other peers, wait until the drive is here
//   {"id": 6, "do": "status"}        key, version, lengths, connections
//   {"id": 7, "do": "stop"}          leave the network and close the storage; the process ends
//
// Each answer carries the request's id and either "ok" with a value, or "error" with a text.
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { createInterface } from 'node:readline'

import Corestore from 'corestore'
import HyperDHT from 'hyperdht'
import Hyperdrive from 'hyperdrive'
import Hyperswarm from 'hyperswarm'

let store = null
let drive = null
let swarm = null

const commands = {
  async start({ storage, host, bootstrap, key }) {
    store = new Corestore(storage)
    drive = new Hyperdrive(store, key ? Buffer.from(key, 'hex') : null)
    await drive.ready()
    // Bound to one address: the answers of a socket on all addresses would carry the pod bridge's.
    const dht = new HyperDHT({ host, bootstrap })
    swarm = new Hyperswarm({ dht })
    swarm.on('connection', (connection) => {
      connection.on('error', () => {})
      store.replicate(connection)
    })
    const session = swarm.join(drive.discoveryKey, { server: true, client: true })
    await session.flushed()
    return status()
  },

  async put({ path, base64, file, link, executable }) {
    if (link !== undefined) {
      await drive.symlink(path, link)
    } else {
      const content = file === undefined ? Buffer.from(base64, 'base64') : await readFile(file)
      await drive.put(path, content, { executable: executable === true })
    }
    return status()
  },

  async delete({ path }) {
    await drive.del(path)
    return status()
  },

  async hashes() {
    const entries = {}
    for await (const entry of drive.list('/', { recursive: true })) {
      const { blob, linkname, executable } = entry.value
      if (linkname) {
        entries[entry.key] = { link: linkname }
        continue
      }
      const content = blob ? await drive.get(entry.key) : Buffer.alloc(0)
      const sha256 = createHash('sha256').update(content).digest('hex')
      entries[entry.key] = { sha256, bytes: content.byteLength, executable: executable === true }
    }
    return entries
  },

  async download() {
    await drive.update({ wait: true })
    const blobs = await drive.getBlobs()
    await drive.core.download({ start: 0, end: drive.core.length }).done()
    await blobs.core.update({ wait: true })
    await blobs.core.download({ start: 0, end: blobs.core.length }).done()
    return status()
  },

  async update() {
    await swarm.flush()
    await drive.update({ wait: true })
    return status()
  },

  status: () => status(),

  async stop() {
    await swarm?.destroy()
    await drive?.close()
    await store?.close()
    setImmediate(() => process.exit(0))
    return null
  }
}

async function status() {
  const blobs = await drive.getBlobs().catch(() => null)
  return {
    key: drive.key.toString('hex'),
    discoveryKey: drive.discoveryKey.toString('hex'),
    publicKey: swarm?.keyPair.publicKey.toString('hex') ?? null,
    version: drive.version,
    length: drive.core.length,
    blobsKey: blobs?.core.key?.toString('hex') ?? null,
    blobsLength: blobs?.core.length ?? 0,
    connections: swarm?.connections.size ?? 0
  }
}

const answer = (value) => process.stdout.write(JSON.stringify(value) + '\n')

// Whoever drives this peer has gone: nobody else would end it.
const lines = createInterface({ input: process.stdin })
lines.on('close', () => process.exit(0))
for await (const line of lines) {
  const { id, do: name, ...options } = JSON.parse(line)
  try {
    if (!Object.hasOwn(commands, name)) throw new Error(`no such command: ${name}`)
    answer({ id, ok: await commands[name](options) })
  } catch (error) {
    answer({ id, error: error.message })
  }
}
