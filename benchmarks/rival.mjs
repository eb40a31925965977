// The rival: Iterable's own client for Node, with so many rows in flight.
//
//     node benchmarks/rival.mjs FOLDER URL ROWS POOL
//
// FOLDER is where npm has put @iterable/api. The client repeats nothing: a row is lost when one of its
// two calls fails. Prints {"seconds", "delivered"} as JSON.

import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, url, rows, pool] = process.argv.slice(2);
const entry = join(resolve(folder), "node_modules/@iterable/api/dist/index.js");
const { IterableClient } = await import(pathToFileURL(entry));
const client = new IterableClient({ apiKey: "benchmark", baseUrl: url });
const began = performance.now();
let next = 0;
let delivered = 0;

async function work() {
  while (next < Number(rows)) {
    const number = next++;
    const email = `user${number}@example.com`;
    try {
      await client.updateUser({ email, dataFields: { first_name: "User", candidate: "yes" } });
      await client.trackEvent({ email, eventName: "page_view", id: `view-${number}` });
      delivered++;
    } catch {
      // Lost.
    }
  }
}

await Promise.all(Array.from({ length: Number(pool) }, work));
const seconds = (performance.now() - began) / 1000;
console.log(JSON.stringify({ seconds, delivered }));
process.exit();
