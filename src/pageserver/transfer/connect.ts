/** Connections to other pageservers: where to, and as whom, is what the command line has read from the origin's URI. */
import { connectLibpq } from "../../pgwire/libpq-client.ts";
import { type LibpqTarget, SSL_MODES } from "../../pgwire/uri.ts";
import type { JsonFields } from "../json-fields.ts";
import type { TransferConnection } from "./service.ts";

const TIMEOUT_MS_MAX = 3_600_000;
const PASSWORD_LENGTH_MAX = 10_000;
const PATH_LENGTH_MAX = 4096;

/** Throws `unreachable`, `timeout`, or what the other pageserver says. The signal ends the connection. */
export function connectOrigin(origin: JsonFields, signal: AbortSignal): Promise<TransferConnection> {
  return connectLibpq(readTarget(origin), signal, { applicationName: "neon pageserver" });
}

function readTarget(origin: JsonFields): LibpqTarget {
  const sslModeText = origin.text("sslmode");
  const sslMode = SSL_MODES.find((mode) => mode === sslModeText);
  if (sslMode === undefined) throw origin.wrong("sslmode", `must be one of ${SSL_MODES.join(", ")}`);
  return {
    host: origin.text("host"),
    port: origin.integer("port", { min: 1, max: 65_535 }),
    user: origin.text("user"),
    password: origin.optionalText("password", { maxLength: PASSWORD_LENGTH_MAX }),
    database: origin.optionalText("database"),
    sslMode,
    sslRootCert: origin.optionalText("sslrootcert", { maxLength: PATH_LENGTH_MAX }),
    // It has been resolved already.
    passFile: undefined,
    connectTimeoutMs: origin.integer("connect_timeout_ms", { min: 1, max: TIMEOUT_MS_MAX }),
  };
}
