// Writes and reads whole archives with the JavaScript packages; blocks travel as hex over stdin and stdout.
//
//   node archives.js bees SEED COUNT     random scripts of puts, deletes and batches, with the blocks they write
//   node archives.js write-drive SEED    a random drive: its blocks, and what it should read as
//   node archives.js read-drive          reads { db, blobs, middle } from stdin, and answers what JavaScript sees in it
//   node archives.js serve-drive SEED    a drive, replicated over TCP on loopback until stdin ends; first prints a line
//                                        { port, key, big, ... } with what it should read as
'use strict'

const fs = require('fs')
const os = require('os')
const net = require('net')
const path = require('path')
const { createHash } = require('crypto')
const Corestore = require('corestore')
const Hypercore = require('hypercore')
const Hyperbee = require('hyperbee')
const Hyperdrive = require('hyperdrive')
const NoiseSecretStream = require('@hyperswarm/secret-stream')

const hex = (bytes) => bytes.toString('hex')

// mulberry32: the same seed, the same archive.
let state = 0
function random (limit) {
  state = (state + 0x6d2b79f5) | 0
  let t = Math.imul(state ^ (state >>> 15), 1 | state)
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
  return ((t ^ (t >>> 14)) >>> 0) % limit
}

const pick = (list) => list[random(list.length)]

async function blocksOf (core) {
  const blocks = []
  for (let i = 0; i < core.length; i++) blocks.push(hex(await core.get(i, { raw: true })))
  return blocks
}

// SHA-256 of every block.
async function hashes (core) {
  const found = []
  for (let i = 0; i < core.length; i++) found.push(createHash('sha256').update(await core.get(i, { raw: true })).digest('hex'))
  return found
}

async function inDirectory (work) {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'cumulet-archives-'))
  try {
    return await work(directory)
  } finally {
    fs.rmSync(directory, { recursive: true })
  }
}

async function bee (tag, directory) {
  const core = new Hypercore(directory)
  await core.ready()
  const alwaysDuplicate = random(2) === 0
  const bee = new Hyperbee(core, { alwaysDuplicate, extension: false })
  await bee.ready()
  const range = 10 + random(120)
  const change = () => {
    const key = 'k' + String(random(range)).padStart(3, '0')
    return random(5) < 2 ? ['del', key] : ['put', key, String(random(4))]
  }
  const apply = (to, op) => (op[0] === 'put' ? to.put(op[1], op[2]) : to.del(op[1]))
  const ops = []
  const lengths = []
  for (let left = 5 + random(40); left > 0; left--) {
    if (random(2)) {
      const changes = []
      for (let count = 1 + random(60); count > 0; count--) changes.push(change())
      const batch = bee.batch()
      for (const op of changes) await apply(batch, op)
      await batch.flush()
      ops.push(['batch', changes])
    } else {
      const op = change()
      await apply(bee, op)
      ops.push(op)
    }
    lengths.push(core.length)
  }
  const blocks = await blocksOf(core)
  await core.close()
  return { kind: 'random', tag, ops, options: { metadata: null, alwaysDuplicate }, lengths, blocks }
}

// All files of a drive or of a checkout, with their bytes, and a part of these.
async function filesOf (drive) {
  const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex')
  const files = []
  for await (const { seq, key, value } of drive.list('/')) {
    const file = { key, seq, linkname: value.linkname, executable: value.executable, metadata: value.metadata }
    if (value.blob) {
      const data = await drive.get(key)
      file.size = data.byteLength
      file.sha256 = sha256(data)
      if (data.byteLength > 3) file.part = sha256(data.subarray(data.byteLength / 3, data.byteLength - 1))
    }
    files.push(file)
  }
  return files
}

// What a drive reads as, now and at an older version: the same from JavaScript and from Rust, or one of them is wrong.
async function describe (drive, middle) {
  const files = await filesOf(drive)
  const checkout = drive.checkout(middle)
  const old = await filesOf(checkout)
  await checkout.close()
  const diff = []
  for await (const { left, right } of drive.diff(middle, '/')) {
    diff.push([(left || right).key, left && left.seq, right && right.seq])
  }
  return { version: drive.version, files, middle, old, diff }
}

// Returns a version between two of the changes: those inside a batch can't be read.
async function fill (drive) {
  const versions = []
  const name = () => '/' + Array.from({ length: 1 + random(3) }, () => pick(['a', 'b', 'ü', 'x y', 'c.txt', 'd.bin'])).join('/')
  const sizes = [0, 1, 10, 100, 65535, 65536, 65537, 200000]
  const data = () => Buffer.alloc(pick(sizes), Buffer.from([random(256), random(256), random(256), 1]))
  for (let left = 20 + random(30); left > 0; left--) {
    const options = { executable: random(2) === 0, metadata: random(3) ? null : { n: random(9), s: 'å\n', f: 1.5 } }
    switch (random(6)) {
      case 0:
        await drive.del(name())
        break
      case 1:
        await drive.symlink(name(), pick(['/a', '../b', 'c.txt', name()]))
        break
      case 2: {
        const batch = drive.batch()
        for (let count = 1 + random(8); count > 0; count--) await batch.put(name(), data(), options)
        await batch.flush()
        break
      }
      case 3: {
        const stream = drive.createWriteStream(name(), { ...options, dedup: random(2) === 0 })
        const repeated = Buffer.alloc(1 + random(3000), random(4))
        // At least one: JavaScript cannot read back an empty file that it wrote with dedup.
        for (let count = 1 + random(6); count > 0; count--) stream.write(random(2) ? repeated : Buffer.alloc(1 + random(90), random(9)))
        stream.end()
        await new Promise((resolve, reject) => stream.on('close', resolve).on('error', reject))
        break
      }
      default:
        await drive.put(name(), data(), options)
    }
    versions.push(drive.version)
  }
  return versions[versions.length >> 1]
}

async function writeDrive (directory) {
  const store = new Corestore(directory)
  const drive = new Hyperdrive(store)
  await drive.ready()
  const middle = await fill(drive)
  const { db, blobs } = drive
  const written = {
    key: hex(drive.key),
    contentKey: hex(blobs.core.key),
    manifest: { version: db.core.manifest.version, signers: db.core.manifest.signers.map((signer) => ({ namespace: hex(signer.namespace), publicKey: hex(signer.publicKey) })) },
    db: await blocksOf(db.core),
    blobs: await blocksOf(blobs.core),
    ...(await describe(drive, middle))
  }
  await drive.close()
  await store.close()
  return written
}

// Byte `at` of the big file: the Rust test makes the same.
const bigByte = (at) => (at % 251) ^ ((at >> 8) & 255)

async function serveDrive (directory) {
  const store = new Corestore(directory)
  const drive = new Hyperdrive(store)
  await drive.ready()
  const middle = await fill(drive)
  // A file of 200 blocks of different sizes, so that bytes are found by the tree and not by arithmetic.
  const stream = drive.createWriteStream('/big file.bin')
  let size = 0
  for (let block = 0; block < 200; block++) {
    const bytes = Buffer.alloc(1000 + ((block * 7919) % 20000))
    for (let i = 0; i < bytes.length; i++) bytes[i] = bigByte(size + i)
    size += bytes.length
    if (!stream.write(bytes)) await new Promise((resolve) => stream.once('drain', resolve))
  }
  stream.end()
  await new Promise((resolve, reject) => stream.on('close', resolve).on('error', reject))
  const server = net.createServer((socket) => {
    const secret = new NoiseSecretStream(false, socket)
    secret.on('error', () => {})
    store.replicate(secret)
  })
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address()
  const big = { size, blocks: 200 }
  process.stdout.write(JSON.stringify({ port, key: hex(drive.key), big, blobs: drive.blobs.core.length, ...(await describe(drive, middle)) }) + '\n')
  await new Promise((resolve) => process.stdin.on('end', resolve).resume())
  // The directory goes with us, and so do the connections.
  process.exitCode = 0
  setImmediate(() => process.exit())
}

async function readDrive (directory) {
  const { db, blobs, middle } = JSON.parse(fs.readFileSync(0, 'utf8'))
  const store = new Corestore(directory)
  const core = store.get({ name: 'db', exclusive: true })
  await core.ready()
  await core.append(db.map((block) => Buffer.from(block, 'hex')))
  await core.close()
  const drive = new Hyperdrive(store)
  await drive.ready()
  await (await drive.getBlobs()).core.append(blobs.map((block) => Buffer.from(block, 'hex')))
  const seen = await describe(drive, middle)
  await drive.close()
  await store.close()
  return seen
}

async function main ([command, seed, count]) {
  state = Number(seed || 0) | 0
  switch (command) {
    case 'bees': {
      const cases = []
      for (let i = 0; i < Number(count); i++) cases.push(await inDirectory((directory) => bee(`seed ${seed}, script ${i}`, directory)))
      return { cases }
    }
    case 'write-drive':
      return inDirectory(writeDrive)
    case 'read-drive':
      return inDirectory(readDrive)
    case 'serve-drive':
      return inDirectory(serveDrive)
    default:
      throw new Error('unknown command ' + command)
  }
}

// Makes what follows depend on this seed alone.
function reseed (seed) {
  state = Number(seed) | 0
}

module.exports = { describe, fill, hashes, random, reseed }

if (require.main === module) {
  main(process.argv.slice(2)).then(
    (answer) => answer && process.stdout.write(JSON.stringify(answer)),
    (error) => {
      console.error(error)
      process.exitCode = 1
    }
  )
}
