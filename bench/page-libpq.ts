/** The page stream over libpq as a protocol of the benchmark: a request for several pages is as many messages, in one write. */
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { connect } from "node:net";
import { ByteWriter } from "../src/base/bytes.ts";
import { ClientAuth } from "../src/pgwire/auth.ts";
import { FrameConnection } from "../src/pgwire/frame-connection.ts";
import { encodeCopyDatas, encodeQuery, encodeStartup, encodeTerminate } from "../src/pgwire/frontend.ts";
import type { PageConnection, PageProtocol, PageTarget } from "./page-protocol.ts";

const LATEST = 2n ** 64n - 1n;
/** CopyData's head, tag, request id, two LSNs, what was asked for, and the page. */
const ANSWER_SIZE = 5 + 1 + 24 + 13 + 4 + 8192;
const TAG_OFFSET = 5;
const TAG_PAGE = 102;
const SILENCE_MS = 60_000;
const AUTHENTICATION = 0x52;
const ERROR_RESPONSE = 0x45;
const COPY_BOTH = 0x57;
const READY = 0x5a;

export const libpqPages: PageProtocol = { name: "libpq", connect: connectLibpqPages };

async function connectLibpqPages(target: PageTarget): Promise<PageConnection> {
  const socket = connect({ host: target.host, port: target.ports["libpq"] ?? 0, noDelay: true });
  await once(socket, "connect");
  const connection = new FrameConnection(socket, { bodySizeMax: 2 ** 20, peer: "pageserver" });
  await connection.write(encodeStartup({ user: "neon" }));
  const auth = new ClientAuth(
    { user: "neon", password: target.token },
    { bytes: (n) => new Uint8Array(randomBytes(n)) },
    { isPrivate: false },
  );
  const until = async (type: number): Promise<void> => {
    for (;;) {
      const frame = await connection.next(SILENCE_MS);
      if (!frame || frame.type === ERROR_RESPONSE)
        throw new Error(`no login: ${Buffer.from(frame?.body ?? []).toString()}`);
      if (frame.type === type) return;
      const answer = frame.type === AUTHENTICATION ? await auth.answer(frame.body) : undefined;
      if (answer) await connection.write(answer);
    }
  };
  await until(READY);
  await connection.write(encodeQuery(`pagestream_v3 ${target.tenantId} ${target.timelineId}`));
  await until(COPY_BOTH);
  // From here on only answers come, all of one length: they are counted and looked at, not put together.
  socket.removeAllListeners("data");
  const waiting: { left: number; done: () => void }[] = [];
  let first = 0;
  let offset = 0;
  socket.on("data", (chunk: Uint8Array) => {
    for (let at = 0; at < chunk.length;) {
      const tag = TAG_OFFSET - offset;
      if (tag >= 0 && at + tag < chunk.length && chunk[at + tag] !== TAG_PAGE) {
        socket.destroy();
        throw new Error(`no page: ${Buffer.from(chunk.subarray(at, at + 300)).toString("latin1")}`);
      }
      const step = Math.min(ANSWER_SIZE - offset, chunk.length - at);
      at += step;
      offset += step;
      if (offset < ANSWER_SIZE) continue;
      offset = 0;
      const request = waiting[first];
      if (request === undefined) throw new Error("an answer to nothing");
      if (--request.left > 0) continue;
      first++;
      if (first === 1000) {
        waiting.splice(0, first);
        first = 0;
      }
      request.done();
    }
  });
  let id = 0;
  return {
    request: (blocks, done) => {
      waiting.push({ left: blocks.length, done });
      socket.write(encodeCopyDatas(blocks.map((block) => getPage(target, ++id, block))));
    },
    close: async () => {
      socket.removeAllListeners("data").resume();
      socket.end(encodeTerminate());
      await once(socket, "close");
    },
  };
}

function getPage({ dbOid, relNumber }: PageTarget, id: number, block: number): Uint8Array {
  const writer = new ByteWriter(42).u8(2).u64be(BigInt(id)).u64be(LATEST).u64be(8n);
  return writer.u32be(1663).u32be(dbOid).u32be(relNumber).u8(0).u32be(block).finish();
}
