/** How base backups wait for their turn. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { setImmediate as nextTurn } from "node:timers/promises";
import { BackupTurns } from "../../src/pageserver/basebackup/backup-turns.ts";

const CHUNKS = 5;

/** Notes when it begins and ends. */
class Source {
  began = false;
  ended = false;

  async *stream(): AsyncGenerator<Uint8Array> {
    this.began = true;
    try {
      for (let i = 0; i < CHUNKS; i++) {
        await nextTurn();
        yield Uint8Array.of(i);
      }
    } finally {
      this.ended = true;
    }
  }
}

async function readAll(stream: AsyncIterable<Uint8Array>): Promise<number[]> {
  const bytes: number[] = [];
  for await (const chunk of stream) bytes.push(...chunk);
  return bytes;
}

const EXPECTED = Array.from({ length: CHUNKS }, (_, i) => i);

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await nextTurn();
}

test("no more run at a time than may, and all get what they asked for, in order", async () => {
  const turns = new BackupTurns({ atOnce: 3 });
  const sources = Array.from({ length: 20 }, () => new Source());
  const running = () => sources.filter((source) => source.began && !source.ended).length;
  let most = 0;
  const finished: number[] = [];
  await Promise.all(
    sources.map(async (source, i) => {
      const bytes: number[] = [];
      for await (const chunk of turns.inTurn(source.stream())) {
        most = Math.max(most, running());
        assert.ok(turns.runningCount <= 3);
        // Those who came before have begun.
        assert.ok(sources.slice(0, i).every((other) => other.began));
        bytes.push(...chunk);
      }
      finished.push(i);
      assert.deepEqual(bytes, EXPECTED);
    }),
  );
  assert.equal(finished.length, sources.length);
  assert.equal(most, 3);
  assert.equal(turns.runningCount, 0);
  assert.equal(turns.waitingCount, 0);
  assert.deepEqual(await readAll(turns.inTurn(new Source().stream())), EXPECTED);
});

test("a stream that is closed, or fails, gives its turn to the next", async () => {
  const turns = new BackupTurns({ atOnce: 1 });
  const closed = new Source();
  for await (const chunk of turns.inTurn(closed.stream())) {
    assert.equal(chunk[0], 0);
    break;
  }
  assert.ok(closed.ended);
  const failing = turns.inTurn(
    (async function* () {
      yield Uint8Array.of(1);
      await nextTurn();
      throw new Error("the disk is gone");
    })(),
  );
  const waiting = new Source();
  const next = readAll(turns.inTurn(waiting.stream()));
  await assert.rejects(readAll(failing), /the disk is gone/);
  assert.deepEqual(await next, EXPECTED);
  assert.equal(turns.runningCount, 0);
});

test("a stream that nobody reads keeps its turn until others wait, and then fails", async () => {
  const turns = new BackupTurns({ atOnce: 1, idleMsMax: 50 });
  const stalled = new Source();
  const stream = turns.inTurn(stalled.stream())[Symbol.asyncIterator]();
  assert.deepEqual((await stream.next()).value, Uint8Array.of(0));
  const other = new Source();
  const next = readAll(turns.inTurn(other.stream()));
  await until(() => stalled.ended);
  assert.deepEqual(await next, EXPECTED);
  await assert.rejects(stream.next(), { code: "timeout" });
  assert.deepEqual(await stream.next(), { done: true, value: undefined });
});
