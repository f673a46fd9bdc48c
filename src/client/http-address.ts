/**
 * The HTTP address of a pageserver that is known by its libpq address: it says itself where that is, to whoever it lets in.
 * The same user, the same password and the same certificate serve there.
 */
import { ErrorCode, NeonError } from "../base/errors.ts";
import { isLoopback } from "../pgwire/loopback.ts";
import type { LibpqTarget } from "../pgwire/uri.ts";
import { asObject, optionalTextField } from "./json.ts";
import { connectOrigin } from "./libpq.ts";
import type { PageserverUri } from "./pageserver-uri.ts";
import { identify, notAPageserver } from "./remote-pageserver.ts";

const STATUS_LENGTH_MAX = 10_000;

/** `name` is what the user calls it. Throws what keeps us from it. */
export async function httpAddressOf(
  name: string,
  target: LibpqTarget,
  signal?: AbortSignal,
): Promise<PageserverUri> {
  await using client = await connectOrigin(target, signal);
  await identify(client, target);
  const { rows } = await client.query("status");
  const { host, port } = listenAddress(name, statusOf(rows[0]?.[0] ?? "", target));
  const isNear = isLoopback(target.host);
  if (isLoopback(host) && !isNear) {
    throw new NeonError(
      ErrorCode.Unreachable,
      `the pageserver of ${name} offers its HTTP API to its own machine only, at ${host}:${port}`,
      {
        hint: "Whoever runs it can open it: `neon pageserver cert`, `neon config set pageserver.listen 0.0.0.0:9898`, `neon stop`, `neon start`.",
      },
    );
  }
  if (!client.encrypted && !isNear) {
    throw new NeonError(
      ErrorCode.Unreachable,
      `the connection to ${name} is not encrypted, and over HTTP the password would be readable on its way`,
      { hint: `Give it encryption: neon origin set-url ${name} "…?sslmode=verify-full&sslrootcert=FILE"` },
    );
  }
  const shown = target.host.includes(":") ? `[${target.host}]` : target.host;
  return {
    baseUrl: `${client.encrypted ? "https" : "http"}://${shown}:${port}`,
    host: target.host,
    port,
    user: target.user,
    password: target.password,
    tls: client.encrypted ? trustLike(target) : undefined,
    passFile: target.passFile,
  };
}

/** As strict as over libpq, where encryption was used because it was there. */
function trustLike({ sslMode, sslRootCert }: LibpqTarget): PageserverUri["tls"] {
  const isChecked = sslMode === "verify-ca" || sslMode === "verify-full";
  return { sslMode: isChecked ? sslMode : "require", sslRootCert };
}

function statusOf(text: string, target: LibpqTarget): string | null {
  try {
    return optionalTextField(asObject(JSON.parse(text.slice(0, STATUS_LENGTH_MAX)), "status"), "listen");
  } catch (error) {
    throw notAPageserver(target, error);
  }
}

function listenAddress(name: string, listen: string | null): { host: string; port: number } {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^\s:/[\]]+)):(\d{1,5})$/.exec(listen ?? "");
  const host = match?.[1] ?? match?.[2];
  if (host !== undefined) return { host, port: Number(match?.[3]) };
  throw new NeonError(
    ErrorCode.Unsupported,
    `the pageserver of ${name} does not say where its HTTP API is; it is of an older version`,
    { hint: "Name it by its URI: --pageserver https://USER@HOST:9898" },
  );
}
