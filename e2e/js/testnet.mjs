// A DHT of a few nodes on one address. Prints its bootstrap list as one JSON line, and runs until killed.
//
//   node testnet.mjs HOST [NODES [PORT]]
//
// PORT is the first node's; without it, or when it is 0, a free one is taken.
import HyperDHT from 'hyperdht'

const [host, nodes = '4', port = '0'] = process.argv.slice(2)

// Each node is bound to the one address: the answers of a socket on all addresses would carry the pod bridge's.
const node = async (bootstrap, port = 0) => {
  const dht = new HyperDHT({ host, port, bootstrap, ephemeral: false, firewalled: false })
  await dht.fullyBootstrapped()
  return dht
}

const first = await node([], Number(port))
const bootstrap = [{ host, port: first.address().port }]
for (let count = 1; count < Number(nodes); count++) await node(bootstrap)
process.stdout.write(JSON.stringify(bootstrap) + '\n')
