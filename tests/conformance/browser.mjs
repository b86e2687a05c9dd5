// Starts Chromium without a window, with a profile of its own, and without what it fetches of itself.
export function launch(chromium, profile) {
  const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
  const quiet = ["--disable-background-networking", "--disable-sync", "--disable-quic", "--disable-gpu"];
  return chromium.launchPersistentContext(profile, { executablePath, args: ["--no-sandbox", ...quiet] });
}
