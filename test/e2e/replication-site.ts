/** A repository whose branches clients of replication follow, and the stock clients of Postgres 15. */
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { PgConnection } from "../../src/pgwire/client.ts";
import { embeddedBinDir, freePort } from "../support/postgres.ts";
import { Lab } from "./support.ts";

export const DEBIAN_15 = "/usr/lib/postgresql/15/bin";
export const HAS_15 = existsSync(join(DEBIAN_15, "pg_receivewal"));

export interface Site {
  readonly lab: Lab;
  readonly tenant: string;
  readonly token: string;
  readonly binDir: string;
  readonly address: () => Promise<{ host: string; port: string }>;
}

export async function site(major: number): Promise<Site> {
  const lab = new Lab();
  try {
    const binDir = major === 15 ? DEBIAN_15 : embeddedBinDir(major);
    await lab.ok("init", "--pg-version", String(major), "--pg-bin", binDir, "--wal-segsize", "1");
    await lab.ok("pg", "create", "main");
    return {
      lab,
      binDir,
      tenant: await lab.ok("config", "get", "default_tenant_id"),
      token: await lab.ok("config", "get", "pageserver.auth_token"),
      address: async () => {
        const [host = "", port = ""] = (await lab.ok("config", "get", "pageserver.listen_libpq")).split(":");
        return { host, port };
      },
    };
  } catch (error) {
    await lab[Symbol.asyncDispose]();
    throw error;
  }
}

export async function conninfo({ token, tenant, address }: Site, branch: string): Promise<string> {
  const { host, port } = await address();
  return `host=${host} port=${port} user=neon password=${token} sslmode=disable options='-c tenant_id=${tenant} -c branch=${branch}'`;
}

/** A connection that speaks the replication protocol and follows `main`. */
export async function follow({ token, address }: Site, name = "test"): Promise<PgConnection> {
  const { host, port } = await address();
  return PgConnection.connect({
    address: { host, port: Number(port) },
    credentials: { user: "neon", password: token },
    parameters: { replication: "true", options: "-c branch=main", application_name: name },
    timeoutMs: 10_000,
  });
}

/** The one row that a command of it is answered by, on a connection of its own. */
export async function oneRow(here: Site, command: string): Promise<readonly (string | null)[]> {
  await using connection = await follow(here);
  return (await connection.query(command))[0]?.rows[0] ?? [];
}

/** Starts a compute again, whoever may have got its port meanwhile. */
export async function start(lab: Lab, name: string): Promise<void> {
  await lab.ok("pg", "start", name, "--port", String(await freePort()));
}

export const run = promisify(execFile);

/** Runs a stock program of Postgres 15 to its end; what it printed. */
export async function stock(program: string, ...args: string[]): Promise<string> {
  const { stdout, stderr } = await run(join(DEBIAN_15, program), args, { maxBuffer: 1 << 28 });
  return stdout + stderr;
}
