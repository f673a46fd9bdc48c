import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { string as stringFlag } from "@oclif/core/flags";
import { ErrorCode, NeonError, messageOf } from "../../base/errors.ts";
import { BaseCommand, type JsonFields } from "../shared/base-command.ts";
import { PRIVATE_KEY_FILE } from "../shared/token-keys.ts";

const UNITS_MS: Readonly<Record<string, number>> = {
  s: 1000,
  min: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};
const EXPIRES_MS_MAX = 100 * 366 * 86_400_000;
const SCOPES = ["tenant", "pageserverapi"] as const;

export default class PageserverToken extends BaseCommand {
  static override summary = "Make a token that opens the pageserver, or one tenant of it.";
  static override description =
    "The token is a JSON Web Token, signed with the private key that `neon pageserver key` has made. Programs show it as a bearer " +
    "token over HTTP and gRPC, and as the password over libpq. It cannot be taken back but by new keys, so let it expire.\n\n" +
    "Scope tenant opens the data of one tenant, the default one unless --tenant-id says otherwise; scope pageserverapi opens " +
    "everything, users and other tenants included.";
  static override examples = [
    "<%= config.bin %> pageserver token",
    "<%= config.bin %> pageserver token --tenant-id 6f1b1c2d3e4f5a6b7c8d9e0f1a2b3c4d --expires 8h",
    "<%= config.bin %> pageserver token --scope pageserverapi",
  ];
  static override flags = {
    scope: stringFlag({
      summary: "What it opens: tenant or pageserverapi.",
      options: [...SCOPES],
      default: "tenant",
      helpValue: "SCOPE",
    }),
    expires: stringFlag({
      summary: "How long it holds, such as 30d, 8h or 15min.",
      default: "30d",
      helpValue: "TIME",
    }),
    key: stringFlag({
      summary: "File with the private key, if not the pageserver's own.",
      helpValue: "FILE",
    }),
  };

  async run(): Promise<JsonFields> {
    const { flags } = await this.parse(PageserverToken);
    const lifetimeMs = parseLifetime(flags.expires);
    const repository = await this.findRepository(flags);
    const { readPrivateKey, signToken } = await import("../../client/jwt.ts");
    const path = flags.key ?? join(repository.pageserverDirectory, PRIVATE_KEY_FILE);
    const key = readPrivateKey(await readKeyFile(path), path);
    const scope = flags.scope === "tenant" ? "tenant" : "pageserverapi";
    const limited = scope === "tenant" || flags["tenant-id"] !== undefined;
    const tenantId = limited ? this.tenantOf(repository, flags) : undefined;
    const now = Date.now();
    const expiresAt = now + lifetimeMs;
    const token = await signToken(key, { scope, tenantId, now, expiresAt });
    if (repository.config.pageserver.jwtPublicKey === undefined) {
      this.caution("the pageserver accepts no tokens: pageserver.jwt_public_key is not set");
    }
    this.print(token);
    const expires = new Date(expiresAt).toISOString();
    this.say(`It opens ${tenantId === undefined ? "everything" : `tenant ${tenantId}`} until ${expires}`);
    return { token, scope, tenant_id: tenantId ?? null, expires_at: expires };
  }
}

async function readKeyFile(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    throw new NeonError(ErrorCode.NotFound, `cannot read the private key: ${messageOf(error)}`, {
      hint: "`neon pageserver key` makes a key pair.",
      cause: error,
    });
  }
}

function parseLifetime(text: string): number {
  const [, amount, unit] = /^(\d{1,9}) *(s|min|h|d)$/.exec(text) ?? [];
  const ms = Number(amount) * (UNITS_MS[unit ?? ""] ?? Number.NaN);
  if (ms >= 1000 && ms <= EXPIRES_MS_MAX) return ms;
  throw new NeonError(ErrorCode.Usage, `--expires ${text} is no time`, {
    hint: "A number with s, min, h or d, such as 30d.",
  });
}
