// What runs in the page: the network stack of today's JavaScript apps, with a WebSocket for a DHT and memory for storage.
// Hypercore 11 has no storage that runs in a browser (RocksDB, native), so this is the last Hypercore 10: the same protocol.
const RelayedDHT = require('@hyperswarm/dht-relay')
const SocketStream = require('@hyperswarm/dht-relay/ws')
const Hypercore = require('hypercore-10')
const crypto = require('hypercore-crypto')
const Hyperswarm = require('hyperswarm')
const RAM = require('random-access-memory')

function hex (bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')
}

function bytes (text) {
  return Buffer.from(text, 'hex')
}

let held = null

// Who is not let in hears it after the handshake: an answer is what proves that one is.
async function lookUp (dht, topic) {
  await dht.ready()
  const query = dht.lookup(topic)
  await new Promise((resolve) => {
    query.on('error', () => {})
    query.on('end', resolve)
    query.resume()
  })
  return true
}

// Opens a DHT behind the WebSocket at `url` and keeps it. Says whether it was let in.
window.hold = async function ({ url, seed }) {
  const socket = new window.WebSocket(url)
  const closed = new Promise((resolve) => { socket.onclose = () => resolve(false) })
  const dht = new RelayedDHT(new SocketStream(true, socket), { keyPair: crypto.keyPair(bytes(seed)) })
  const isOpen = await Promise.race([lookUp(dht, bytes(seed)), closed])
  if (isOpen) held = closed
  return { isOpen }
}

// Waits for the end of what is held, for `wait` milliseconds at most. Says whether it has ended.
window.ended = async function ({ wait }) {
  const late = new Promise((resolve) => setTimeout(resolve, wait, true))
  return { hasEnded: !(await Promise.race([held, late])) }
}

// Joins the core's topic behind the WebSocket at `url` and reads `length` blocks.
window.readCore = async function ({ url, seed, key, length }) {
  const socket = new window.WebSocket(url)
  const keyPair = crypto.keyPair(bytes(seed))
  const dht = new RelayedDHT(new SocketStream(true, socket), { keyPair })
  const core = new Hypercore(RAM, bytes(key))
  await core.ready()
  const swarm = new Hyperswarm({ dht, keyPair })
  const peers = new Set()
  swarm.on('connection', (connection) => {
    peers.add(hex(connection.remotePublicKey))
    connection.on('error', () => {})
    core.replicate(connection)
  })
  swarm.join(core.discoveryKey, { server: false, client: true })
  const blocks = []
  for (let i = 0; i < length; i++) blocks.push(hex(await core.get(i)))
  await swarm.destroy()
  await core.close()
  return { blocks, peers: [...peers] }
}
