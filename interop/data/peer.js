// A JavaScript peer that tests talk to: one JSON command per line on stdin, one JSON answer per line on stdout.
// It holds one Corestore and replicates it over TCP on loopback.
'use strict'

const net = require('net')
const os = require('os')
const fs = require('fs')
const path = require('path')
const readline = require('readline')
const crypto = require('crypto')
const b4a = require('b4a')
const Corestore = require('corestore')
const Hypercore = require('hypercore')
const hypercoreCrypto = require('hypercore-crypto')
const NoiseSecretStream = require('@hyperswarm/secret-stream')

const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'cumulet-interop-'))
const store = new Corestore(directory)
const cores = new Map()
const keyPairs = new Map()
const streams = new Set()
let server = null

// Block `index` of a core filled with `seed`: the Rust tests make the same bytes.
function block(seed, index, size) {
  const bytes = b4a.alloc(size)
  for (let i = 0; i < size; i++) bytes[i] = seed * 31 + index * 7 + i * 13 + (i >> 8) * 17
  return bytes
}

function replicate(isInitiator, socket) {
  const stream = new NoiseSecretStream(isInitiator, socket)
  stream.on('error', (err) => process.stderr.write('stream: ' + err.message + '\n'))
  socket.on('error', () => {})
  store.replicate(stream)
  streams.add(stream)
  stream.on('close', () => streams.delete(stream))
}

function describe(core) {
  return {
    key: b4a.toString(core.key, 'hex'),
    length: core.length,
    byteLength: core.byteLength,
    fork: core.fork,
    contiguousLength: core.contiguousLength,
    peers: core.peers.length
  }
}

async function held(core) {
  const indexes = []
  for (let i = 0; i < core.length; i++) if (await core.has(i)) indexes.push(i)
  return indexes
}

async function digest(core) {
  const hash = crypto.createHash('sha256')
  for (let i = 0; i < core.length; i++) {
    const value = await core.get(i, { timeout: 60000 })
    hash.update(String(value.byteLength) + ':')
    hash.update(value)
  }
  return hash.digest('hex')
}

async function until(condition, what) {
  const end = Date.now() + 60000
  while (!(await condition())) {
    if (Date.now() > end) throw new Error('timed out: ' + what)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

const commands = {
  async listen() {
    server = net.createServer((socket) => replicate(false, socket))
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
    return { port: server.address().port }
  },

  async connect({ port }) {
    const socket = net.connect(port, '127.0.0.1')
    await new Promise((resolve, reject) => socket.once('connect', resolve).once('error', reject))
    replicate(true, socket)
    return {}
  },

  async disconnect() {
    for (const stream of [...streams]) stream.destroy()
    await until(() => streams.size === 0, 'disconnect')
    return {}
  },

  // kind: default, compat, multisig (2 of 3)
  async create({ name, kind }) {
    let core
    if (kind === 'compat') {
      const keyPair = hypercoreCrypto.keyPair(b4a.alloc(32, name))
      keyPairs.set(name, keyPair)
      core = store.get({ key: keyPair.publicKey, keyPair, compat: true })
    } else if (kind === 'multisig') {
      const pairs = [1, 2, 3].map((n) => hypercoreCrypto.keyPair(b4a.alloc(32, name + n)))
      const manifest = { version: 1, quorum: 2, signers: pairs.map((pair) => ({ publicKey: pair.publicKey })) }
      core = store.get({ manifest, active: true })
      core.multisigPairs = pairs
    } else {
      core = store.get({ name })
    }
    await core.ready()
    cores.set(name, core)
    return describe(core)
  },

  async open({ name, key }) {
    const core = store.get({ key: b4a.from(key, 'hex') })
    await core.ready()
    cores.set(name, core)
    return describe(core)
  },

  async append({ name, seed, sizes }) {
    const core = cores.get(name)
    const blocks = sizes.map((size, i) => block(seed, core.length + i, size))
    if (!core.multisigPairs) {
      await core.append(blocks)
      return describe(core)
    }
    // Two of three signers hold cores of their own; their signatures are assembled.
    const multisig = require('hypercore/lib/multisig')
    const base = new Hypercore(path.join(directory, 'multisig-' + name + core.length), {
      keyPair: core.multisigPairs[0]
    })
    await base.ready()
    for (let i = 0; i < core.length; i++) await base.append(await core.get(i))
    await base.append(blocks)
    const batch = base.state.createTreeBatch()
    const signature = multisig.assemble(
      core.multisigPairs.slice(0, 2).map((pair, signer) => ({
        signer,
        signature: hypercoreCrypto.sign(batch.signable(core.key), pair.secretKey),
        patch: 0,
        nodes: null
      }))
    )
    await core.append(blocks, { signature })
    await base.close()
    return describe(core)
  },

  async truncate({ name, length }) {
    await cores.get(name).truncate(length)
    return describe(cores.get(name))
  },

  async clear({ name, start, end }) {
    await cores.get(name).clear(start, end)
    return describe(cores.get(name))
  },

  // Waits for a length at a fork, downloads everything, and says what it was.
  async download({ name, length, fork }) {
    const core = cores.get(name)
    const range = core.download({ start: 0, end: -1 })
    await until(() => core.length === length && core.fork === fork, `length ${length} at fork ${fork}, is ${core.length} at ${core.fork}`)
    const sha256 = await digest(core)
    range.destroy()
    return { ...describe(core), sha256 }
  },

  async get({ name, index }) {
    const value = await cores.get(name).get(index, { timeout: 30000 })
    return { sha256: crypto.createHash('sha256').update(value).digest('hex'), size: value.byteLength }
  },

  async seek({ name, bytes }) {
    const core = cores.get(name)
    await core.update({ wait: true })
    const [index, offset] = await core.seek(bytes, { timeout: 30000 })
    return { index, offset }
  },

  async held({ name }) {
    return { held: await held(cores.get(name)) }
  },

  async info({ name }) {
    return describe(cores.get(name))
  },

  async peers({ name, count }) {
    const core = cores.get(name)
    await until(() => core.peers.length === count, count + ' peers')
    return describe(core)
  },

  async close() {
    if (server) server.close()
    for (const stream of [...streams]) stream.destroy()
    await store.close()
    fs.rmSync(directory, { recursive: true, force: true })
    return {}
  }
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const { cmd, ...args } = JSON.parse(line)
    try {
      process.stdout.write(JSON.stringify({ ok: await commands[cmd](args) }) + '\n')
    } catch (err) {
      process.stdout.write(JSON.stringify({ error: err.stack }) + '\n')
    }
    if (cmd === 'close') break
  }
  process.exit(0)
}

main()
