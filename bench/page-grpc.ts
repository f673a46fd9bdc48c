/**
 * GetPages over gRPC as a protocol of the benchmark: one stream for each connection. What comes is counted by the
 * lengths of messages and looked at where an answer says how it went, not put together.
 */
import { once } from "node:events";
import { connect } from "node:http2";
import { MAX_LSN, toLsn } from "../src/base/lsn.ts";
import { MetadataKey, PAGE_SERVICE, PageClass } from "../src/base/page-api/page-model.ts";
import { encodeGetPageRequest } from "../src/base/page-api/page-requests.ts";
import type { PageConnection, PageProtocol, PageTarget } from "./page-protocol.ts";

const HEADER_SIZE = 5;
/** An answer without pages is shorter than any page. */
const PAGE_SIZE = 8192;
/** What the server may send ahead. */
const WINDOW_BYTES = 8 * 1024 * 1024;

export const grpcPages: PageProtocol = { name: "grpc", connect: connectGrpcPages };

async function connectGrpcPages(target: PageTarget): Promise<PageConnection> {
  const session = connect(`http://${target.host}:${target.ports["grpc"] ?? 0}`, {
    settings: { initialWindowSize: WINDOW_BYTES, enablePush: false },
  });
  await once(session, "connect");
  session.setLocalWindowSize(WINDOW_BYTES);
  const stream = session.request({
    ":method": "POST",
    ":path": `/${PAGE_SERVICE}/GetPages`,
    te: "trailers",
    "content-type": "application/grpc",
    [MetadataKey.Authorization]: `Bearer ${target.token}`,
    [MetadataKey.Tenant]: target.tenantId,
    [MetadataKey.Timeline]: target.timelineId,
    [MetadataKey.Shard]: "0000",
  });
  stream.on("trailers", (trailers) => {
    if (trailers["grpc-status"] !== "0") throw new Error(String(trailers["grpc-message"]));
  });
  const waiting: (() => void)[] = [];
  let first = 0;
  /** Of the message that is being received. */
  let left = 0;
  const header = Buffer.alloc(HEADER_SIZE);
  let headerSize = 0;
  const onMessage = (): void => {
    const done = waiting[first++];
    if (done === undefined) throw new Error("an answer to nothing");
    if (first === 1000) {
      waiting.splice(0, first);
      first = 0;
    }
    done();
  };
  stream.on("data", (chunk: Uint8Array) => {
    for (let at = 0; at < chunk.length;) {
      if (left > 0) {
        const step = Math.min(left, chunk.length - at);
        at += step;
        left -= step;
        if (left === 0) onMessage();
        continue;
      }
      header[headerSize++] = chunk[at++] ?? 0;
      if (headerSize < HEADER_SIZE) continue;
      headerSize = 0;
      left = header.readUInt32BE(1);
      if (left < PAGE_SIZE) throw new Error(`no page: ${Buffer.from(chunk.subarray(at)).toString("latin1")}`);
    }
  });
  const rel = { spcOid: 1663, dbOid: target.dbOid, relNumber: target.relNumber, fork: 0 };
  const read = { lsn: MAX_LSN, notModifiedSince: toLsn(8) };
  let id = 0n;
  return {
    request: (blocks, done) => {
      waiting.push(done);
      const requestId = { id: ++id, attempt: 0 };
      const message = encodeGetPageRequest({ requestId, requestClass: PageClass.Normal, read, rel, blocks });
      const frame = Buffer.allocUnsafe(HEADER_SIZE + message.length);
      frame[0] = 0;
      frame.writeUInt32BE(message.length, 1);
      frame.set(message, HEADER_SIZE);
      stream.write(frame);
    },
    close: async () => {
      stream.end();
      session.close();
      await once(session, "close");
    },
  };
}
