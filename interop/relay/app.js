// An app of today: an Autobase, or a core, whose writers store with a blind peer by `blind-peering`, unchanged. One JSON command per line on
// stdin, one JSON answer per line on stdout. The process ends when stdin closes.
const fs = require('fs')
const os = require('os')
const path = require('path')
const Autobase = require('autobase')
const BlindPeering = require('blind-peering')
const { AddCoreEncoding, DeleteCoreEncoding } = require('blind-peer-encodings')
const Corestore = require('corestore')
const crypto = require('hypercore-crypto')
const DHT = require('hyperdht')
const Hyperswarm = require('hyperswarm')
const ProtomuxRPC = require('protomux-rpc')
const Wakeup = require('protomux-wakeup')
const createTestnet = require('hyperdht/testnet')
const takeCommands = require('../commands')

const HOST = '127.0.0.1'
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'cumulet-app-'))
const kept = new Map()
let nextHandle = 1

function parse (address) {
  const [host, port] = address.split(':')
  return { host, port: Number(port) }
}

function keyPair (seed) {
  return seed ? DHT.keyPair(Buffer.alloc(32, seed)) : DHT.keyPair()
}

function createNode ({ bootstrap, seed }) {
  return new DHT({ bootstrap: bootstrap.map(parse), host: HOST, keyPair: keyPair(seed) })
}

function createDevice (args, bootstrapKey) {
  const handle = nextHandle++
  const store = new Corestore(path.join(folder, String(handle)))
  const wakeup = new Wakeup()
  const base = new Autobase(store.namespace('base'), bootstrapKey, {
    wakeup,
    valueEncoding: 'json',
    open: (views) => views.get('view', { valueEncoding: 'json' }),
    async apply (nodes, view, host) {
      for (const { value } of nodes) {
        if (value.add) await host.addWriter(Buffer.from(value.add, 'hex'), { indexer: true })
        else await view.append(value)
      }
    }
  })
  const device = { handle, store, wakeup, base }
  kept.set(handle, device)
  return device
}

function connectDevices (a, b) {
  const one = a.base.replicate(true)
  const two = b.base.replicate(false)
  one.on('error', () => {})
  two.on('error', () => {})
  one.pipe(two).pipe(one)
}

async function settle (devices, ready) {
  for (const deadline = Date.now() + 30000; ;) {
    for (const { base } of devices) await base.update()
    if (ready()) return
    if (Date.now() > deadline) throw new Error('the devices do not agree in 30 s')
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

function storeWith (device, args) {
  device.dht = createNode(args)
  device.blind = new BlindPeering(device.dht, device.store, { keys: [args.peer], wakeup: device.wakeup })
  return device.blind.addAutobase(device.base)
}

async function values (base) {
  const list = []
  for (let i = 0; i < base.view.length; i++) list.push(await base.view.get(i))
  return list
}

async function request (args, method, value, codecs) {
  const dht = createNode(args)
  const stream = dht.connect(Buffer.from(args.peer, 'hex'))
  stream.on('error', () => {})
  const rpc = new ProtomuxRPC(stream, { id: Buffer.from(args.peer, 'hex'), valueEncoding: null })
  rpc.on('close', () => {})
  try {
    await rpc.fullyOpened()
    const results = []
    for (const item of value) {
      results.push(rpc.request(method, item, codecs).then((answer) => ({ answer }), (err) => ({ failure: (err.cause && err.cause.message) || err.message })))
    }
    return await Promise.all(results)
  } finally {
    rpc.destroy()
    await dht.destroy()
  }
}

const commands = {
  async testnet ({ size }) {
    const testnet = await createTestnet(size, { host: HOST })
    kept.set(nextHandle, testnet)
    return { handle: nextHandle++, bootstrap: testnet.bootstrap.map((b) => b.host + ':' + b.port) }
  },

  // Two writers of one Autobase write, and store with the blind peer. Says which cores there are, and how long.
  async write (args) {
    const a = createDevice(args, null)
    await a.base.ready()
    const b = createDevice(args, a.base.key)
    await b.base.ready()
    connectDevices(a, b)
    await a.base.append({ add: b.base.local.key.toString('hex') })
    await settle([a, b], () => b.base.writable)
    for (let i = 0; i < args.values; i++) {
      await a.base.append({ from: 'a', number: i })
      await b.base.append({ from: 'b', number: i })
    }
    await settle([a, b], () => a.base.view.length === 2 * args.values && b.base.view.length === 2 * args.values)
    await storeWith(a, args)
    await storeWith(b, args)
    const cores = [a.base.local, b.base.local].map((core) => ({ key: core.key.toString('hex'), length: core.length }))
    return { key: a.base.key.toString('hex'), cores, values: await values(a.base) }
  },

  // A third device, which has only the Autobase's key and the blind peer.
  async read (args) {
    const c = createDevice(args, Buffer.from(args.key, 'hex'))
    await c.base.ready()
    await storeWith(c, args)
    await settle([c], () => c.base.view.length === args.values)
    return { values: await values(c.base) }
  },

  // A device with one core stores it with the blind peer, which is to announce it. It stays until the process ends.
  async store (args) {
    const store = new Corestore(path.join(folder, String(nextHandle++)))
    const core = store.get({ name: 'stored' })
    await core.ready()
    for (let i = 0; i < args.values; i++) await core.append('value ' + i)
    const blind = new BlindPeering(createNode(args), store, { keys: [args.peer] })
    await blind.addCore(core, { announce: true })
    return { key: core.key.toString('hex'), length: core.length }
  },

  // A device that has nothing but a core's key, and finds the core on the DHT.
  async find (args) {
    const store = new Corestore(path.join(folder, String(nextHandle++)))
    const core = store.get(Buffer.from(args.key, 'hex'))
    await core.ready()
    const swarm = new Hyperswarm({ dht: createNode(args) })
    swarm.on('connection', (connection) => {
      connection.on('error', () => {})
      store.replicate(connection)
    })
    swarm.join(core.discoveryKey, { server: false, client: true })
    const found = []
    for (let i = 0; i < args.length; i++) found.push((await core.get(i)).toString())
    await swarm.destroy()
    await store.close()
    return { values: found }
  },

  // Public keys of those who announce a core.
  async holders (args) {
    const dht = createNode(args)
    const holders = new Set()
    for await (const { peers } of dht.lookup(crypto.discoveryKey(Buffer.from(args.key, 'hex')))) {
      for (const peer of peers) holders.add(peer.publicKey.toString('hex'))
    }
    await dht.destroy()
    return { holders: [...holders] }
  },

  async delete (args) {
    const [result] = await request(args, 'delete-core', [{ key: Buffer.from(args.key, 'hex') }], DeleteCoreEncoding)
    return result
  },

  // Asks for many cores that nobody has.
  async flood (args) {
    const wanted = []
    for (let i = 0; i < args.count; i++) {
      wanted.push({ key: require('crypto').randomBytes(32), referrer: null, priority: 0, announce: false })
    }
    const results = []
    for (let i = 0; i < wanted.length; i += 32) {
      results.push(...await request(args, 'add-core', wanted.slice(i, i + 32), AddCoreEncoding))
    }
    const failures = results.filter((result) => result.failure).map((result) => result.failure)
    return { added: results.length - failures.length, failures: [...new Set(failures)] }
  }
}

process.on('exit', () => fs.rmSync(folder, { recursive: true, force: true }))
takeCommands(commands)
