/** Settings as `neon config` shows them: value, where it comes from, secrets covered. */
import {
  CONFIG_KEYS,
  type ConfigKey,
  type ConfigValue,
  findConfigKey,
} from "../../repository/config-keys.ts";
import type { ConfigSettings } from "../../repository/config.ts";

export interface ShownSetting {
  readonly key: string;
  /** Null where neither the file nor a default says anything. */
  readonly value: ConfigValue | null;
  readonly origin: "file" | "environment" | "default" | "unset";
  readonly secret: boolean;
}

/** All settings: those of the table without `<name>`, and every named one that the file has. */
export function shownSettings(
  settings: ConfigSettings,
  environment: Readonly<Record<string, string | undefined>>,
): ShownSetting[] {
  const paths = new Set(CONFIG_KEYS.map((key) => key.path).filter((path) => !path.includes("<")));
  for (const path of settings.keys()) paths.add(path);
  return [...paths].flatMap((path) => {
    const found = findConfigKey(path);
    return found ? [showSetting(path, found.key, settings, environment)] : [];
  });
}

export function showSetting(
  path: string,
  key: ConfigKey,
  settings: ConfigSettings,
  environment: Readonly<Record<string, string | undefined>>,
): ShownSetting {
  const secret = key.secret ?? false;
  const variable = key.environment === undefined ? undefined : environment[key.environment];
  if (variable) return { key: path, value: variable, origin: "environment", secret };
  const value = settings.get(path);
  if (value !== undefined) return { key: path, value, origin: "file", secret };
  if (key.defaultValue !== undefined)
    return { key: path, value: key.defaultValue, origin: "default", secret };
  return { key: path, value: null, origin: "unset", secret };
}

/** The value for people: a password within an address is covered, any other secret as a whole. */
export function shownValue(setting: ShownSetting, showSecrets: boolean): string {
  if (setting.value === null) return "";
  const text = String(setting.value);
  if (!setting.secret || showSecrets) return text;
  return setting.key.startsWith("origins.") ? text.replace(/^(\w+:\/\/[^:@/]*):[^@]*@/, "$1:***@") : "***";
}
