/** gRPC calls by hand over Node's HTTP/2, for what no client library would send. */
import { once } from "node:events";
import {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  type IncomingHttpHeaders,
  connect,
} from "node:http2";

export interface RawResult {
  /** HTTP status; undefined if no headers came. */
  readonly http: number | undefined;
  /** gRPC status; undefined if no trailers came. */
  readonly code: number | undefined;
  readonly details: string;
  readonly encoding: string | undefined;
  readonly messages: readonly { readonly compressed: boolean; readonly bytes: Buffer }[];
}

/** With its five-byte head. */
export function frame(bytes: Uint8Array, flag = 0): Buffer {
  const head = Buffer.alloc(5);
  head[0] = flag;
  head.writeUInt32BE(bytes.length, 1);
  return Buffer.concat([head, bytes]);
}

export class RawCall {
  readonly stream: ClientHttp2Stream;
  bytesReceived = 0;
  /** Resolves when the call is over, however it ended. */
  readonly result: Promise<RawResult>;

  constructor(stream: ClientHttp2Stream) {
    this.stream = stream;
    let headers: IncomingHttpHeaders & { ":status"?: number | undefined } = {};
    let trailers: IncomingHttpHeaders = {};
    const parts: Buffer[] = [];
    stream.on("error", () => undefined);
    stream.on("response", (found) => (headers = found));
    stream.on("trailers", (found) => (trailers = found));
    stream.on("data", (part: Buffer) => {
      parts.push(part);
      this.bytesReceived += part.length;
    });
    const closed = new Promise<void>((resolve) => {
      stream.once("close", resolve);
    });
    this.result = closed.then(() => {
      const code = trailers["grpc-status"] ?? headers["grpc-status"];
      return {
        http: headers[":status"],
        code: code === undefined ? undefined : Number(code),
        details: decodeURIComponent((trailers["grpc-message"] ?? headers["grpc-message"] ?? "").toString()),
        encoding: headers["grpc-encoding"]?.toString(),
        messages: messagesOf(Buffer.concat(parts)),
      };
    });
  }

  send(...parts: Uint8Array[]): this {
    for (const part of parts) this.stream.write(part);
    return this;
  }

  end(): this {
    this.stream.end();
    return this;
  }
}

function messagesOf(bytes: Buffer): RawResult["messages"] {
  const messages: { compressed: boolean; bytes: Buffer }[] = [];
  for (let at = 0; at + 5 <= bytes.length;) {
    const end = at + 5 + bytes.readUInt32BE(at + 1);
    messages.push({ compressed: bytes[at] === 1, bytes: bytes.subarray(at + 5, end) });
    at = end;
  }
  return messages;
}

export class RawClient implements AsyncDisposable {
  readonly session: ClientHttp2Session;

  private constructor(session: ClientHttp2Session) {
    this.session = session;
    session.on("error", () => undefined);
  }

  static async connect(
    port: number,
    settings: { readonly initialWindowSize?: number } = {},
  ): Promise<RawClient> {
    const client = new RawClient(connect(`http://127.0.0.1:${port}`, { settings }));
    await once(client.session, "connect");
    return client;
  }

  call(path: string, headers: Record<string, string> = {}): RawCall {
    return new RawCall(
      this.session.request({
        ":method": "POST",
        ":path": path,
        te: "trailers",
        "content-type": "application/grpc",
        ...headers,
      }),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.session.destroyed) return;
    const closed = once(this.session, "close");
    this.session.destroy();
    await closed;
  }
}
