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
const Hyperbee = require('hyperbee')
const Hyperdrive = require('hyperdrive')
const NoiseSecretStream = require('@hyperswarm/secret-stream')
const archives = require('./archives')

let { directory, store } = empty()
const cores = new Map()
const keyPairs = new Map()
const streams = new Set()
const drives = new Map()
const encryption = { key: b4a.alloc(32, 'encryption') }
// Small blocks are appended this many at a time, so that no batch is a memory of its own.
const FILL_BATCH = 4096
// Blocks are read this many at a time.
const READ_BATCH = 1024
let server = null

// A store with nothing in it, and where it is.
function empty() {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'cumulet-interop-'))
  return { directory, store: new Corestore(directory) }
}

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
  return digestOf(core, Array.from({ length: core.length }, (_, i) => i))
}

// Some blocks of a core and their sizes, as they are read back from its storage.
async function digestOf(core, indexes) {
  const hash = crypto.createHash('sha256')
  for (let start = 0; start < indexes.length; start += READ_BATCH) {
    for (const value of await read(core, indexes.slice(start, start + READ_BATCH))) {
      hash.update(String(value.byteLength) + ':')
      hash.update(value)
    }
  }
  return hash.digest('hex')
}

// What `core.get` gives for each of these blocks. It asks the storage for one block at a time; this does so for all at once,
// and leaves what must be decrypted or fetched to it.
async function read(core, indexes) {
  const get = (index) => core.get(index, { timeout: PATIENCE })
  if (core.encryption) return Promise.all(indexes.map(get))
  const reader = core.state.storage.read()
  const stored = indexes.map((index) => reader.getBlock(index))
  reader.tryFlush()
  return Promise.all(indexes.map(async (index, i) => (await stored[i]) || get(index)))
}

// All entries of a bee, and how it differs from an older version.
async function readBee(bee, middle) {
  const entries = []
  const shape = (entry) => entry && [entry.seq, b4a.toString(entry.key), b4a.toString(entry.value)]
  for await (const entry of bee.createReadStream()) entries.push(shape(entry))
  const diff = []
  for await (const { left, right } of bee.createDiffStream(middle)) diff.push([shape(left), shape(right)])
  return { version: bee.version, entries, middle, diff }
}

// Longest wait for anything, in milliseconds; reached only when something is wrong.
const PATIENCE = Number(process.env.CUMULET_PATIENCE_MS || 60000)

async function until(condition, what) {
  const end = Date.now() + PATIENCE
  while (true) {
    const asked = Date.now()
    if (await condition()) return
    if (asked > end) throw new Error('timed out: ' + (typeof what === 'function' ? what() : what))
    // Counting a hundred thousand blocks takes a while; what is waited for shares the process and needs most of its time.
    const pause = Math.max(10, 10 * (Date.now() - asked))
    await new Promise((resolve) => setTimeout(resolve, pause))
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
    // What the other side has dialled may not have come in yet.
    await until(() => streams.size > 0, 'a connection to end')
    for (const stream of [...streams]) stream.destroy()
    await until(() => streams.size === 0, 'disconnect')
    return {}
  },

  // kind: default, compat, multisig (2 of 3), encrypted, prologue (of a core with blocks of `sizes`, filled with `seed`)
  async create({ name, kind, seed, sizes }) {
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
    } else if (kind === 'encrypted') {
      core = store.get({ name, encryption })
    } else if (kind === 'prologue') {
      const source = store.get({ name: name + ' before' })
      await source.ready()
      await source.append(sizes.map((size, i) => block(seed, i, size)))
      const keyPair = hypercoreCrypto.keyPair(b4a.alloc(32, name))
      const prologue = { hash: await source.treeHash(), length: source.length }
      const manifest = { version: 1, prologue, signers: [{ publicKey: keyPair.publicKey }] }
      core = store.get({ manifest, keyPair })
      await core.ready()
      await core.core.copyPrologue(source.state)
    } else {
      core = store.get({ name })
    }
    await core.ready()
    cores.set(name, core)
    return describe(core)
  },

  async open({ name, key, kind }) {
    const options = { key: b4a.from(key, 'hex') }
    if (kind === 'encrypted') options.encryption = encryption
    const core = store.get(options)
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

  // As `append`, `count` blocks of one size.
  async fill({ name, seed, count, size }) {
    const core = cores.get(name)
    if (core.multisigPairs) return commands.append({ name, seed, sizes: new Array(count).fill(size) })
    for (let left = count; left > 0; left -= FILL_BATCH) {
      const start = core.length
      const batch = []
      for (let i = 0; i < Math.min(left, FILL_BATCH); i++) batch.push(block(seed, start + i, size))
      await core.append(batch)
    }
    return describe(core)
  },

  // What a core is, with the hash of its tree.
  async state({ name }) {
    const core = cores.get(name)
    // Not `treeHash`, which waits for the last block.
    const treeHash = core.length ? b4a.toString(await Hypercore.treeHashFromStorage(core), 'hex') : null
    return { ...describe(core), treeHash }
  },

  // Wants all blocks, without waiting for them; then waits until some are here.
  async want({ name, count }) {
    const core = cores.get(name)
    core.download({ start: 0, end: -1 })
    await until(() => core.contiguousLength >= count, `${count} blocks, has ${core.contiguousLength}`)
    return describe(core)
  },

  // Waits until all blocks that peers have are here, and gives the digest of those.
  async sync({ name, length, fork, count }) {
    const core = cores.get(name)
    const range = core.download({ start: 0, end: -1 })
    await until(() => core.length === length && core.fork === fork, `length ${length} at fork ${fork}, is ${core.length} at ${core.fork}`)
    const here = () => core.core.bitfield.countSet(0, core.length)
    await until(() => here() >= count, () => `${count} blocks, has ${here()}`)
    range.destroy()
    const indexes = await held(core)
    return { held: indexes, sha256: await digestOf(core, indexes) }
  },

  // A random bee in a new core.
  async writeBee({ name, seed, count }) {
    archives.reseed(seed)
    await commands.create({ name, kind: 'default' })
    const bee = new Hyperbee(cores.get(name))
    const versions = [1]
    const key = () => 'k' + archives.random(count * 2 + 1)
    for (let left = count; left > 0; ) {
      const batch = bee.batch()
      for (let n = 1 + archives.random(50); n > 0 && left > 0; n--, left--) {
        if (archives.random(4) === 0) await batch.del(key())
        else await batch.put(key(), 'v'.repeat(archives.random(40)) + left)
      }
      await batch.flush()
      versions.push(bee.version)
    }
    // Versions inside a batch can't be read: its inner blocks have no index.
    const middle = versions[versions.length >> 1]
    return { ...describe(cores.get(name)), ...(await readBee(bee, middle)) }
  },

  async readBee({ name, length, middle }) {
    const core = cores.get(name)
    await until(() => core.length >= length, 'length ' + length)
    return readBee(new Hyperbee(core), middle)
  },

  // Runs operations on a bee in a new core; gives the hashes of its blocks.
  async applyBee({ name, ops }) {
    await commands.create({ name, kind: 'default' })
    const core = cores.get(name)
    const bee = new Hyperbee(core, { extension: false })
    await bee.ready()
    const cas = (prev, next) => !b4a.equals(prev.value, b4a.from(next.value))
    for (const [op, key, value] of ops) {
      if (op === 'put') await bee.put(key, value)
      else if (op === 'putIf') await bee.put(key, value, { cas })
      else if (op === 'del') await bee.del(key)
      else {
        const batch = bee.batch()
        for (const [changed, to] of key) await (to === null ? batch.del(changed) : batch.put(changed, to))
        await batch.flush()
      }
    }
    return { blocks: await archives.hashes(core) }
  },

  // Runs operations on a new drive; gives the hashes of the blocks of both its cores.
  async applyDrive({ name, ops }) {
    const drive = new Hyperdrive(store.namespace(name))
    await drive.ready()
    drives.set(name, drive)
    const data = ({ size, start }) => {
      const bytes = b4a.alloc(size)
      for (let at = 0; at < size; at++) bytes[at] = (at % 251) + start
      return bytes
    }
    const put = (to, file) => to.put(file.name, data(file), { executable: file.executable, metadata: file.metadata })
    for (const [op, what, target] of ops) {
      if (op === 'put') await put(drive, what)
      else if (op === 'del') await drive.del(what)
      else if (op === 'symlink') await drive.symlink(what, target)
      else {
        const batch = drive.batch()
        for (const file of what) await put(batch, file)
        await batch.flush()
      }
    }
    const blobs = await drive.getBlobs()
    return { db: await archives.hashes(drive.db.core), blobs: await archives.hashes(blobs.core) }
  },

  async writeDrive({ name, seed }) {
    archives.reseed(seed)
    const drive = new Hyperdrive(store.namespace(name))
    await drive.ready()
    const middle = await archives.fill(drive)
    drives.set(name, drive)
    return { key: b4a.toString(drive.key, 'hex'), ...(await archives.describe(drive, middle)) }
  },

  async readDrive({ name, key, version, middle }) {
    const drive = new Hyperdrive(store, b4a.from(key, 'hex'))
    await drive.ready()
    drives.set(name, drive)
    await until(async () => drive.version >= version || ((await drive.update()), drive.version >= version), 'version ' + version)
    return archives.describe(drive, middle)
  },

  async truncate({ name, length }) {
    await cores.get(name).truncate(length)
    return describe(cores.get(name))
  },

  async clear({ name, start, end }) {
    await cores.get(name).clear(start, end)
    return describe(cores.get(name))
  },

  // Does not take the next proofs of a longer tree, as when another proof that was being verified came before them.
  async dropUpgrades({ name, count }) {
    const core = cores.get(name).core
    const verify = core.verify
    core.verify = async function (proof, from) {
      if (proof.upgrade && count-- > 0) return false
      return verify.call(this, proof, from)
    }
    return {}
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

  // Ends all connections and deletes everything, as if the process had just started.
  async reset() {
    await clear()
    ;({ directory, store } = empty())
    return {}
  },

  async close() {
    await clear()
    return {}
  }
}

async function clear() {
  if (server) server.close()
  server = null
  for (const stream of [...streams]) stream.destroy()
  for (const drive of drives.values()) await drive.close()
  await store.close()
  fs.rmSync(directory, { recursive: true, force: true })
  for (const map of [cores, keyPairs, drives]) map.clear()
}

Object.assign(commands, require('./replication')(cores, until, block))

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
