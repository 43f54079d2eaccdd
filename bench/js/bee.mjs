// Writing, looking up and listing keys.
import Corestore from 'corestore'
import Hyperbee from 'hyperbee'

import { Content, Random, key } from './content.mjs'

const VALUE_BYTES = 64

const content = new Content()

async function open(dir) {
  const store = new Corestore(dir)
  const bee = new Hyperbee(store.get({ name: 'bee' }), { keyEncoding: 'utf-8', valueEncoding: 'binary' })
  await bee.ready()
  return { store, bee }
}

function check(node, index) {
  if (node === null || node.key !== key(index)) throw new Error(`key ${index} is not there`)
  content.check(node.value, index, VALUE_BYTES)
}

export const tasks = {
  // `count` keys, in batches of `batch`; batches of 1 are puts.
  async 'bee-put'({ dir, count, batch }, measure) {
    const { store, bee } = await open(dir)
    await measure.time(count, async () => {
      for (let start = 0; start < count; start += batch) {
        const writer = batch === 1 ? bee : bee.batch()
        for (let index = start; index < Math.min(start + batch, count); index++) {
          await writer.put(key(index), content.block(index, VALUE_BYTES))
        }
        if (batch !== 1) await writer.flush()
      }
    })
    for (const index of [0, count >> 1, count - 1]) check(await bee.get(key(index)), index)
    await store.close()
  },

  // `gets` random ones of `count` keys, one after the other.
  async 'bee-get'({ dir, count, gets, warmup }, measure) {
    const { store, bee } = await open(dir)
    const read = async (seed, gets) => {
      const random = new Random(seed)
      for (let i = 0; i < gets; i++) {
        const index = random.next() % count
        check(await bee.get(key(index)), index)
      }
    }
    await read(1, warmup)
    await measure.time(gets, () => read(2, gets))
    await store.close()
  },

  // All keys in order.
  async 'bee-range'({ dir, count }, measure) {
    const { store, bee } = await open(dir)
    await measure.time(count, async () => {
      let seen = 0
      let before = ''
      for await (const node of bee.createReadStream()) {
        if (node.key <= before) throw new Error('keys are not in order')
        before = node.key
        check(node, node.value.readUInt32LE(0))
        seen++
      }
      if (seen !== count) throw new Error(`${seen} keys instead of ${count}`)
    })
    await store.close()
  }
}
