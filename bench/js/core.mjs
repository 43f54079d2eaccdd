// Appending to a core and reading it.
import Corestore from 'corestore'

import { Content, Random } from './content.mjs'

const content = new Content()

export const tasks = {
  // `count` blocks of `size` bytes in batches of `batch`, each awaited; `warmup` blocks before go to another core.
  async append({ dir, size, count, batch, unit, warmup }, measure) {
    const store = new Corestore(dir)
    await append(store.get({ name: 'warmup' }), size, warmup, batch)
    const core = store.get({ name: 'core' })
    await core.ready()
    await measure.time(unit === 'MiB' ? (count * size) / 2 ** 20 : count, () => append(core, size, count, batch))
    if (core.length !== count) throw new Error(`${core.length} blocks instead of ${count}`)
    for (const index of [0, count >> 1, count - 1]) content.check(await core.get(index), index, size)
    await store.close()
  },

  // `gets` random blocks out of the `count` that an append left, `lanes` at once.
  async get({ dir, size, count, gets, lanes, warmup }, measure) {
    const store = new Corestore(dir)
    const core = store.get({ name: 'core' })
    await core.ready()
    if (core.length !== count) throw new Error(`${core.length} blocks instead of ${count}`)
    const read = async (seed, gets) => {
      const random = new Random(seed)
      for (let i = 0; i < gets; i++) {
        const index = random.next() % count
        content.check(await core.get(index), index, size)
      }
    }
    await read(1, warmup)
    const each = Math.ceil(gets / lanes)
    await measure.time(each * lanes, () =>
      Promise.all(Array.from({ length: lanes }, (_, lane) => read(lane + 2, each)))
    )
    await store.close()
  },

  // Opens a store that has `count` cores and reads a block of each; with `make` it makes them instead.
  async cores({ dir, count, make }, measure) {
    const store = new Corestore(dir)
    const touch = async (index) => {
      const core = store.get({ name: `core ${index}` })
      await core.ready()
      if (make) await core.append(content.block(index, 1024))
      else content.check(await core.get(0), index, 1024)
    }
    await measure.time(count, async () => {
      for (let index = 0; index < count; index++) await touch(index)
    })
    measure.countDescriptors()
    await store.close()
  }
}

async function append(core, size, count, batch) {
  for (let index = 0; index < count; index += batch) {
    const blocks = []
    for (let i = index; i < Math.min(index + batch, count); i++) blocks.push(content.block(i, size))
    await core.append(batch === 1 ? blocks[0] : blocks)
  }
}
