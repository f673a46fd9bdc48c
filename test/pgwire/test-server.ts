/** A server of the protocol with statements that tests need, and raw sockets to it. */
import { randomBytes } from "node:crypto";
import { type Socket, connect } from "node:net";
import { once } from "node:events";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import type { ServerLimits } from "../../src/pgwire/server-connection.ts";
import { LibpqServer } from "../../src/pgwire/libpq-server.ts";
import { type ScramVerifier, makeScramVerifier, mockScramVerifier } from "../../src/pgwire/scram-server.ts";
import type { ServerTls } from "../../src/pgwire/server-startup.ts";
import type { Statement, StatementSession } from "../../src/pgwire/statement.ts";
import { type LibpqTarget, parseLibpqUri } from "../../src/pgwire/uri.ts";

export const PASSWORD = "secret with : and ü";
export const random = { bytes: (count: number) => new Uint8Array(randomBytes(count)) };

type Session = StatementSession<string>;

export interface TestServerOptions {
  readonly limits?: Partial<ServerLimits>;
  readonly connectionsMax?: number;
  readonly tls?: ServerTls;
  /** Lets everybody in without asking. */
  readonly trust?: boolean;
  readonly statements?: Readonly<Record<string, (session: Session, argument: string) => Promise<void>>>;
}

/**
 * Statements: `rows N`, `fail CODE`, `wait` (until told to stop), `out N` (CopyOut of N chunks of 64 KiB), `in`,
 * `echo` (CopyBoth).
 */
export class TestServer implements AsyncDisposable {
  readonly failures: unknown[] = [];
  /** Reasons for which `wait` was told to stop. */
  readonly stopped: unknown[] = [];
  /** What `in` has received. */
  received = 0;
  private readonly server: LibpqServer<string>;
  private readonly options: TestServerOptions;
  private readonly verifier: ScramVerifier;

  private constructor(options: TestServerOptions, verifier: ScramVerifier) {
    this.options = options;
    this.verifier = verifier;
    const { limits, connectionsMax } = options;
    this.server = new LibpqServer<string>(
      {
        host: "127.0.0.1",
        port: 0,
        ...(limits ? { limits } : {}),
        ...(connectionsMax === undefined ? {} : { connectionsMax }),
      },
      {
        backends: { admit: ({ user }) => this.admit(user), prepare: (text) => this.prepare(text) },
        tls: () => options.tls,
        random,
        onLogin: () => undefined,
        onFailure: (error) => this.failures.push(error),
      },
    );
  }

  static async start(options: TestServerOptions = {}): Promise<TestServer> {
    const server = new TestServer(options, await makeScramVerifier(PASSWORD, random));
    await server.server.listen();
    return server;
  }

  get port(): number {
    return this.server.port;
  }

  get connectionCount(): number {
    return this.server.connectionCount;
  }

  target(changes: Partial<LibpqTarget> = {}): LibpqTarget {
    const uri = `postgresql://alice@127.0.0.1:${this.port}/db?sslmode=disable&connect_timeout=60`;
    return { ...parseLibpqUri(uri), password: PASSWORD, ...changes };
  }

  /** A socket to it, with nothing said yet. */
  async raw(): Promise<Socket> {
    const socket = connect({ host: "127.0.0.1", port: this.port });
    socket.on("error", () => undefined);
    await once(socket, "connect");
    return socket;
  }

  stop(graceMs: number): Promise<void> {
    return this.server.stop(graceMs);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server.stop(0);
  }

  private admit(user: string) {
    if (this.options.trust) return { kind: "trust", identity: user } as const;
    if (user === "alice") return { kind: "scram", verifier: this.verifier, identity: user } as const;
    const verifier = mockScramVerifier(user, Buffer.from("secret of the server"));
    return { kind: "scram", verifier, identity: undefined } as const;
  }

  private prepare(text: string): Statement<string> | undefined {
    const trimmed = text.replace(/;?\s*$/, "").trim();
    if (trimmed === "") return undefined;
    const [name = "", argument = ""] = trimmed.split(" ");
    const own = this.options.statements?.[name];
    const run = own ?? this.statements()[name];
    if (!run) throw new NeonError(ErrorCode.Usage, `unknown statement ${name}`);
    const columns =
      name === "rows"
        ? ([
            { name: "n", type: "int8" },
            { name: "t", type: "text" },
          ] as const)
        : undefined;
    return {
      columns,
      run: async (session) => {
        await run(session, argument);
        return undefined;
      },
    };
  }

  private statements(): Readonly<Record<string, (session: Session, argument: string) => Promise<void>>> {
    return {
      rows: async (session, count) => {
        for (let i = 0; i < Number(count); i++)
          await session.row([String(i), i % 2 === 0 ? `row ${i}` : null]);
      },
      fail: async (_, code) => {
        const known = Object.values(ErrorCode).find((value) => value === code);
        if (!known) throw new TypeError("a bug");
        throw new NeonError(known, `it is ${code}`, {
          hint: "Do this.",
          data: { lsn: "0/16", n: 1, b: true, z: null },
        });
      },
      wait: async ({ signal }) => {
        await new Promise<void>((resolve) =>
          signal.addEventListener("abort", () => resolve(), { once: true }),
        );
        this.stopped.push(signal.reason);
        signal.throwIfAborted();
      },
      out: async (session, count) => {
        const out = await session.copyOut();
        for (let i = 0; i < Number(count); i++) await out.send(new Uint8Array(2 ** 16).fill(i));
      },
      in: async (session) => {
        for await (const payload of await session.copyIn()) this.received += payload.length;
      },
      echo: async (session) => {
        const channel = await session.copyBoth();
        for (;;) {
          const payload = await channel.receive();
          if (!payload) return;
          await channel.send(payload);
        }
      },
    };
  }
}

/** Everything that arrives on a socket until it is closed. */
export async function untilClosed(socket: Socket): Promise<Buffer> {
  const chunks: Buffer[] = [];
  socket.on("data", (chunk: Buffer) => chunks.push(chunk));
  if (!socket.closed) await once(socket, "close");
  return Buffer.concat(chunks);
}
