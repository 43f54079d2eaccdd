// A peer made of the real udx-native. Reads one JSON command per line, writes one JSON event per line.
//   {cmd: 'open', local, remote, port, send, seed, expect, expectSeed, close: 'end' | 'after' | 'destroy' | 'wait', adopt}
//     a stream that sends `send` patterned bytes and checks that it receives `expect` of them;
//     close: end after the last byte, after the other side's end, destroy after the last byte, or do nothing
//     adopt: do not connect, take the source of the first packet
//   {cmd: 'relay', a: {local, remote, port}, b: {local, remote, port}}  two streams relayed into each other
//   {cmd: 'message', local, hex}  an unreliable message on an open stream
//   {cmd: 'move', local, remote, port}  changeRemote of an open stream
// Events: ready, opened, message, ended, closed (received, matches, error, retransmits, ms).
const readline = require('readline')
const UDX = require('udx-native')

const udx = new UDX()
const socket = udx.createSocket()
socket.bind(0, '127.0.0.1')
const streams = new Map()

const say = (event) => process.stdout.write(JSON.stringify(event) + '\n')

// The same bytes as the tests' pattern(): xorshift32, lowest byte.
function pattern(length, seed) {
  const bytes = Buffer.allocUnsafe(length)
  let state = (seed | 1) >>> 0
  for (let i = 0; i < length; i++) {
    state = (state ^ (state << 13)) >>> 0
    state = (state ^ (state >>> 17)) >>> 0
    state = (state ^ (state << 5)) >>> 0
    bytes[i] = state & 255
  }
  return bytes
}

function open(command) {
  const expected = pattern(command.expect || 0, command.expectSeed || 1)
  let received = 0
  let matches = true
  let error = null
  const started = process.hrtime.bigint()
  const stream = udx.createStream(command.local, {
    firewall: (from, port, host) => {
      if (!command.adopt || stream.connected) return false
      stream.connect(from, command.remote, port, host)
      start(stream, command)
      return false
    }
  })
  streams.set(command.local, stream)
  if (!command.adopt) stream.connect(socket, command.remote, command.port, '127.0.0.1')
  stream.on('data', (data) => {
    if (command.check !== false && matches) {
      matches = expected.subarray(received, received + data.length).equals(data)
    }
    received += data.length
  })
  stream.on('end', () => {
    say({ event: 'ended', local: command.local, received, matches: matches && received === expected.length })
    if (command.close === 'after') stream.end()
  })
  stream.on('message', (data) => say({ event: 'message', local: command.local, hex: data.toString('hex') }))
  stream.on('error', (err) => { error = err.code || err.message })
  stream.on('close', () => {
    streams.delete(command.local)
    const ms = Number(process.hrtime.bigint() - started) / 1e6
    const retransmits = stream.retransmits
    say({ event: 'closed', local: command.local, received, matches: matches && received === expected.length, error, retransmits, ms })
  })
  if (!command.adopt) start(stream, command)
  say({ event: 'opened', local: command.local })
}

function start(stream, command) {
  if (command.send) writeAll(stream, pattern(command.send, command.seed || 1), command)
  else finish(stream, command)
}

function writeAll(stream, bytes, command) {
  const chunk = 65536
  let at = 0
  const more = () => {
    while (at < bytes.length) {
      const part = bytes.subarray(at, at + chunk)
      at += part.length
      if (!stream.write(part)) return stream.once('drain', more)
    }
    finish(stream, command)
  }
  more()
}

function finish(stream, command) {
  if (command.close === 'end') stream.end()
  if (command.close === 'destroy') stream.flush().then(() => stream.destroy())
}

function relay(command) {
  const [a, b] = [command.a, command.b].map((side) => {
    const stream = udx.createStream(side.local, { firewall: () => false })
    stream.connect(socket, side.remote, side.port, '127.0.0.1')
    stream.on('error', () => {})
    stream.on('close', () => say({ event: 'closed', local: side.local }))
    return stream
  })
  a.relayTo(b)
  b.relayTo(a)
  say({ event: 'opened', local: command.a.local })
}

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const command = JSON.parse(line)
  const stream = streams.get(command.local)
  if (command.cmd === 'open') open(command)
  else if (command.cmd === 'relay') relay(command)
  else if (command.cmd === 'message') stream.trySend(Buffer.from(command.hex, 'hex'))
  else if (command.cmd === 'move') stream.changeRemote(socket, command.remote, command.port, '127.0.0.1')
}).on('close', () => process.exit(0))

say({ event: 'ready', port: socket.address().port })
