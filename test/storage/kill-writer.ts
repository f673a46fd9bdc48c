/**
 * A process that writes to a store until it is killed: `node kill-writer.ts DIRECTORY`. It continues from what is on
 * disk and prints the durable LSN after each flush. Each key's state follows from the LSN, see `kill-history.ts`.
 */
import { toLsn } from "../../src/base/lsn.ts";
import { RealFiles } from "../../src/storage/real-files.ts";
import { TimelineStore } from "../../src/storage/store.ts";
import { StoreCache } from "../../src/storage/store-cache.ts";
import { START_LSN, writeTo } from "./kill-history.ts";

const directory = process.argv[2] ?? "";
const files = new RealFiles();
const cache = new StoreCache({ capacityBytes: 1 << 20 }, { files });
const store = await TimelineStore.open({ directory, startLsn: toLsn(START_LSN) }, { files, cache });
for (let lsn: number = store.durableLsn; ;) {
  lsn = writeTo(store, lsn, lsn + 20_000);
  store.freeze(toLsn(lsn));
  const flushed = store.flush();
  lsn = writeTo(store, lsn, lsn + 5000);
  await flushed;
  process.stdout.write(`${store.durableLsn}\n`);
}
