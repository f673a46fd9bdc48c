/** Clients of replication that say nothing, ask for a sign of life, or end in order. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ErrorCode } from "../../src/base/errors.ts";
import { INVALID_LSN } from "../../src/base/lsn.ts";
import { encodeStandbyStatus, decodeReplicationMessage } from "../../src/pgwire/replication.ts";
import type { StatementChannel } from "../../src/pgwire/statement.ts";
import { WalSender } from "../../src/pageserver/replication/wal-sender.ts";
import type { Timeline } from "../../src/pageserver/timeline/timeline.ts";
import { Lab } from "./branch-harness.ts";

const FRAME_HEAD = 5;

/** The server's end of a connection, whose client is the test. */
class Conversation {
  /** Whether each keepalive asked for an answer. */
  readonly asked: boolean[] = [];
  onKeepalive: (replyRequested: boolean) => void = () => undefined;
  private readonly said: (Uint8Array | undefined)[] = [];
  private wake: () => void = () => undefined;

  say(payload: Uint8Array | undefined): void {
    this.said.push(payload);
    this.wake();
  }

  get channel(): StatementChannel {
    return {
      bytesSent: 0,
      bytesReceived: 0,
      receiveNow: () => undefined,
      receive: async () => {
        while (this.said.length === 0) await new Promise<void>((resolve) => (this.wake = resolve));
        return this.said.shift();
      },
      send: (payload) => {
        const message = decodeReplicationMessage(payload);
        assert.ok(message.kind === "keepalive", "there is no WAL to send");
        this.asked.push(message.replyRequested);
        this.onKeepalive(message.replyRequested);
        return Promise.resolve();
      },
      sendFrames: () => assert.fail("frames"),
      end: () => Promise.resolve(),
    };
  }

  run(timeline: Timeline, timeoutMs: number, signal = new AbortController().signal): Promise<void> {
    const sender = new WalSender({
      wal: timeline.wal,
      startLsn: timeline.lastRecordLsn,
      channel: this.channel,
      signal,
      clock: { now: () => Date.now() },
      client: { name: "test", slot: undefined, user: "neon" },
      timeoutMs,
      onStatus: () => undefined,
      onSent: () => undefined,
      check: () => undefined,
    });
    return sender.run();
  }
}

function status(replyRequested: boolean): Uint8Array {
  const at = { writeLsn: INVALID_LSN, flushLsn: INVALID_LSN, applyLsn: INVALID_LSN };
  return encodeStandbyStatus({ ...at, nowMs: Date.now(), replyRequested }).subarray(FRAME_HEAD);
}

test("silence, signs of life, and ends", { timeout: 60_000 }, async () => {
  await using lab = new Lab();
  const main = await lab.init();

  const silent = new Conversation();
  await assert.rejects(silent.run(main, 300), { code: ErrorCode.Timeout });
  assert.deepEqual(silent.asked, [true]);

  // One that answers stays as long as it likes.
  const alive = new Conversation();
  alive.onKeepalive = () => {
    alive.say(alive.asked.length < 4 ? status(false) : undefined);
  };
  await alive.run(main, 1000);
  assert.deepEqual(alive.asked, [true, true, true, true]);

  const curious = new Conversation();
  curious.onKeepalive = (replyRequested) => {
    assert.equal(replyRequested, false);
    curious.say(undefined);
  };
  curious.say(status(true));
  await curious.run(main, 60_000);

  const broken = new Conversation();
  broken.say(Uint8Array.of(1, 2, 3));
  await assert.rejects(broken.run(main, 60_000), { code: ErrorCode.Corrupt });

  const abort = new AbortController();
  const running = new Conversation().run(main, 60_000, abort.signal);
  abort.abort(new Error("the pageserver is being stopped"));
  await assert.rejects(running, /being stopped/);
});
