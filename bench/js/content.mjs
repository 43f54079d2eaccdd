// What is written and read back: the same bytes as `bench/src/content.rs` makes, so either side can check the other's.
//
// Blocks are slices of a pool of pseudo-random bytes with their number in front: nothing compresses, all differ, and making
// or checking one costs little more than a copy.
import b4a from 'b4a'

const POOL_BYTES = 8 << 20
const LONGEST = 64 << 10

// Xorshift with 32 bits of state.
export class Random {
  constructor(seed) {
    this.state = seed >>> 0
  }

  next() {
    let x = this.state
    x ^= x << 13
    x ^= x >>> 17
    x ^= x << 5
    this.state = x >>> 0
    return this.state
  }
}

export class Content {
  constructor() {
    const random = new Random(0x9e3779b9)
    const words = new Uint32Array((POOL_BYTES + LONGEST) / 4)
    for (let i = 0; i < words.length; i++) words[i] = random.next()
    this.pool = b4a.from(words.buffer)
  }

  #slice(index, size) {
    const offset = (index * size) % POOL_BYTES
    return this.pool.subarray(offset, offset + size)
  }

  block(index, size) {
    const block = Buffer.allocUnsafeSlow(size)
    block.set(this.#slice(index, size))
    block.writeUInt32LE(index, 0)
    return block
  }

  check(block, index, size) {
    const good =
      block !== null &&
      block.byteLength === size &&
      b4a.toBuffer(block).readUInt32LE(0) === index &&
      block.subarray(4).equals(this.#slice(index, size).subarray(4))
    if (!good) throw new Error(`block ${index} is not what was written`)
  }
}

// Keys of a bee: distinct, of equal length, in no order.
export function key(index) {
  return (Math.imul(index, 0x9e3779b1) >>> 0).toString(16).padStart(8, '0')
}
