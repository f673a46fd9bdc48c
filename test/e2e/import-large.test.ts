/** A data directory several times as large as what the pageserver keeps of an import in memory: over libpq, cut off, and killed. */
import assert from "node:assert/strict";
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { formatLsn } from "../../src/base/lsn.ts";
import { packDataDirectory } from "../../src/compute/data-directory.ts";
import { Spool } from "../../src/pageserver/basebackup/spool.ts";
import { readTarFiles } from "../../src/pageserver/basebackup/tar-reader.ts";
import { TarWriter } from "../../src/pageserver/basebackup/tar-writer.ts";
import { type LibpqClient, connectLibpq } from "../../src/pgwire/libpq-client.ts";
import { parseLibpqUri } from "../../src/pgwire/uri.ts";
import { parseControlFile } from "../../src/postgres/control-file.ts";
import { recordEndLsn } from "../../src/postgres/wal/layout.ts";
import { RealFiles } from "../../src/storage/real-files.ts";
import { TestPostgres } from "../support/postgres.ts";
import { uriOf } from "./sharing.ts";
import { Lab, killAndWait, until } from "./support.ts";

const TENANT = "0123456789abcdef0123456789abcdef";
const TIMELINE = "fedcba9876543210fedcba9876543210";
const MIB = 1 << 20;
/** What the pageserver keeps in memory is 64 MiB. */
const LARGE_MIB = 224;
/** What it may take on top, with everything that is not collected yet; it was all of the archive and more. */
const GROWTH_MIB_MAX = 180;
const RELATION = "base/5/90000";

/** A piece of the large relation. */
function piece(number: number): Uint8Array {
  const bytes = Buffer.alloc(MIB);
  for (let at = 0; at < MIB; at += 512) bytes.writeUInt32LE((number * 7919 + at * 31) >>> 0, at + 64);
  return bytes;
}

/** A relation that no catalog knows, then the whole of a small cluster; `onPiece` is told of each MiB. */
async function* archive(
  server: TestPostgres,
  onPiece: (number: number) => Promise<void> | void = () => undefined,
): AsyncGenerator<Uint8Array> {
  const writer = new TarWriter({ mtimeMs: 0 });
  writer.beginFile(RELATION, LARGE_MIB * MIB);
  for (let number = 0; number < LARGE_MIB; number++) {
    await onPiece(number);
    writer.write(piece(number));
    yield* writer.take();
  }
  writer.endFile();
  writer.finishWithoutEnd();
  yield* writer.take();
  yield* packDataDirectory(server.dataDir) as AsyncIterable<Uint8Array>;
}

/** Compares the relation in a data directory that the pageserver makes. */
async function checkRelation(client: LibpqClient, scratch: string): Promise<void> {
  await using spool = new Spool(scratch, new RealFiles(), { memoryBytes: 0 });
  const wishes = { what: "data directory", wants: (path: string) => path === RELATION };
  const files = await readTarFiles(client.copyOut(`fullbackup ${TENANT} ${TIMELINE}`), wishes, spool);
  const relation = files.get(RELATION);
  assert.equal(relation?.sizeBytes, LARGE_MIB * MIB);
  for (let number = 0; number < LARGE_MIB; number++) {
    const found = await relation?.read(number * MIB, (number + 1) * MIB);
    assert.ok(found && Buffer.compare(found, piece(number)) === 0, `piece ${number}`);
  }
}

test(
  "a large data directory takes little memory, and what is cut off leaves nothing",
  { timeout: 300_000 },
  async () => {
    await using lab = await Lab.init();
    await using server = await TestPostgres.create({ start: false });
    const control = parseControlFile(readFileSync(join(server.dataDir, "global/pg_control")));
    const end = recordEndLsn(control.checkpointLsn, 24 + 2 + 88, control.walSegmentSize);
    const command = `import basebackup ${TENANT} ${TIMELINE} 0/0 ${formatLsn(end)} ${control.version.major}`;
    const connect = (): Promise<LibpqClient> => connectLibpq(parseLibpqUri(`${uriOf(lab)}?sslmode=disable`));
    const pid = async (): Promise<number> =>
      ((await lab.json("status"))["pageserver"] as { pid: number }).pid;
    const tenant = join(lab.neonDirectory, "pageserver/tenants", TENANT);
    const spool = join(tenant, "timelines", TIMELINE, "import.spool");
    const nothingLeft = (): boolean =>
      readdirSync(join(tenant, "timelines")).length === 0 && !existsSync(join(tenant, "staging"));
    // The client goes away, and the pageserver is killed, when much has been put aside.
    const first = await connect();
    await first.query(`tenant_create ${TENANT} ${control.version.major}`);
    const cut = first.copyIn(
      command,
      archive(server, async (number) => {
        if (number !== 100) return;
        await until("something has been put aside", () => existsSync(spool));
        first.destroy(new Error("it goes away"));
      }),
    );
    await assert.rejects(cut);
    await until("nothing is left of it", nothingLeft);
    const second = await connect();
    const killed = second.copyIn(
      command,
      archive(server, async (number) => {
        if (number !== 100) return;
        await until("something has been put aside", () => existsSync(spool));
        await killAndWait(await pid());
      }),
    );
    await assert.rejects(killed);
    await lab.ok("start");
    assert.ok(nothingLeft());

    const status = async (): Promise<string> => readFileSync(`/proc/${await pid()}/status`, "utf8");
    const peakKib = async (): Promise<number> => Number(/VmHWM:\s*(\d+)/.exec(await status())?.[1]);
    const before = process.platform === "linux" ? await peakKib() : 0;
    await using client = await connect();
    await client.copyIn(command, archive(server));
    const growthMib = process.platform === "linux" ? ((await peakKib()) - before) / 1024 : 0;
    assert.ok(growthMib < GROWTH_MIB_MAX, `${growthMib} MiB of memory`);
    await checkRelation(client, join(lab.directory, "scratch"));
    assert.deepEqual(readdirSync(join(tenant, "timelines", TIMELINE)).sort(), ["layers", "metadata.json"]);
    await lab.ok("fsck");
  },
);
