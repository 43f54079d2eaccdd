// A folder into a drive.
import Corestore from 'corestore'
import Hyperdrive from 'hyperdrive'
import Localdrive from 'localdrive'

import { Content } from './content.mjs'

const BLOCK_BYTES = 64 << 10
// One in so many blocks is read back.
const CHECKED = 64

// As the comparison names them: a hundred to a folder.
const name = (file) => `/${Math.floor(file / 100)}/${file}.bin`

export const tasks = {
  // Mirrors `source` into an empty drive. It holds `count` files of `size` bytes.
  async mirror({ dir, source, count, size, unit, batch }, measure) {
    const content = new Content()
    const store = new Corestore(dir)
    const drive = new Hyperdrive(store)
    await drive.ready()
    const local = new Localdrive(source)
    await measure.time(unit === 'MiB' ? (count * size) / 2 ** 20 : count, () => local.mirror(drive, { batch }).done())
    let files = 0
    for await (const _ of drive.list('/', { recursive: true })) files++
    if (files !== count) throw new Error(`${files} files instead of ${count}`)
    // One in so many blocks of all files.
    const blockBytes = Math.min(size, BLOCK_BYTES)
    const perFile = size / blockBytes
    for (let block = 0; block < count * perFile; block += CHECKED) {
      const start = (block % perFile) * blockBytes
      const chunks = []
      const stream = drive.createReadStream(name(Math.floor(block / perFile)), { start, length: blockBytes })
      for await (const chunk of stream) chunks.push(chunk)
      content.check(Buffer.concat(chunks), block, blockBytes)
    }
    await store.close()
  }
}
