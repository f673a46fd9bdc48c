/** A server of Postgres' protocol that answers as a test says: another pageserver, or the libpq side of the local one. */
import { randomBytes } from "node:crypto";
import type { TestContext } from "node:test";
import { LibpqServer } from "../../src/pgwire/libpq-server.ts";
import { makeScramVerifier } from "../../src/pgwire/scram-server.ts";

/** What a command is answered with: a row of text per column, lines of a CopyOut, or an error that is thrown. */
export type OriginAnswer =
  | { readonly columns: readonly string[]; readonly row: readonly (string | null)[] }
  | { readonly lines: AsyncIterable<object> | Iterable<object> };

export interface FakeOrigin {
  readonly port: number;
  /** Every command that came. */
  readonly seen: string[];
  /** Commands whose clients went away before their end. */
  readonly aborted: string[];
}

const random = { bytes: (count: number) => new Uint8Array(randomBytes(count)) };

/** Listens on a free port until the test ends. */
export async function fakeOrigin(
  t: TestContext,
  answer: (command: string) => OriginAnswer,
  options: { readonly password?: string } = {},
): Promise<FakeOrigin> {
  const { password } = options;
  const verifier = password === undefined ? undefined : await makeScramVerifier(password, random);
  const seen: string[] = [];
  const aborted: string[] = [];
  const server = new LibpqServer<null>(
    { host: "127.0.0.1", port: 0 },
    {
      backends: {
        admit: () =>
          verifier ? { kind: "scram", verifier, identity: null } : { kind: "trust", identity: null },
        prepare: (command) => {
          seen.push(command);
          const given = answer(command);
          return {
            columns: "columns" in given ? given.columns.map((name) => ({ name, type: "text" })) : undefined,
            run: async (session) => {
              session.signal.addEventListener("abort", () => aborted.push(command));
              if ("row" in given) await session.row(given.row);
              else {
                const out = await session.copyOut();
                for await (const line of given.lines) {
                  session.signal.throwIfAborted();
                  await out.send(new TextEncoder().encode(`${JSON.stringify(line)}\n`));
                }
              }
              return undefined;
            },
          };
        },
      },
      tls: () => undefined,
      random,
      onLogin: () => undefined,
      onFailure: () => undefined,
    },
  );
  await server.listen();
  t.after(() => server.stop(0));
  return { port: server.port, seen, aborted };
}

/** How a pageserver identifies itself. */
export const IDENTITY: OriginAnswer = {
  columns: ["systemid", "protocol_version", "version", "user"],
  row: [null, "1", "0.1.0", "neon"],
};

export function dataRow(value: unknown): OriginAnswer {
  return { columns: ["data"], row: [JSON.stringify(value)] };
}
