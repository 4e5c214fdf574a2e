-- lua5.1 deploy/argocd/health_test.lua
local here = arg[0]:match("^(.*)/[^/]*$") or "."
local function read(name)
  local file = assert(io.open(here .. "/" .. name))
  local text = file:read("*a")
  file:close()
  return text
end

local health = assert(loadstring(read("health.lua"), "health.lua"))
local failed, passed = 0, 0

local function check(name, object, status, message)
  object.metadata = object.metadata or {generation = 2}
  setfenv(health, {obj = object, ipairs = ipairs})
  local is = health()
  if is.status == status and is.message:find(message, 1, true) then
    passed = passed + 1
  else
    failed = failed + 1
    print("FAILED " .. name .. ": " .. is.status .. ", " .. is.message)
  end
end

local function condition(type, status, generation)
  return {type = type, status = status, observedGeneration = generation or 2, reason = type .. "Reason", message = "says why"}
end

local function with(...)
  return {status = {observedGeneration = 2, conditions = {...}}}
end

check("a new object waits", {}, "Progressing", "not seen")
check("an older status does not count", {status = {observedGeneration = 1, conditions = {condition("Ready", "True")}}},
  "Progressing", "not seen")
check("an older condition does not count", with(condition("Ready", "True", 1)), "Progressing", "not every gateway pod")
check("no conditions yet", {status = {observedGeneration = 2}}, "Progressing", "not every gateway pod")
check("ready", with(condition("Accepted", "True"), condition("Ready", "True")), "Healthy", "says why")
check("not ready yet", with(condition("Ready", "False")), "Progressing", "ReadyReason: says why")
check("unknown", with(condition("Ready", "Unknown")), "Progressing", "ReadyReason")
check("only its author can repair it", with(condition("Ready", "False"), condition("Stalled", "True")),
  "Degraded", "StalledReason: says why")
check("an earlier form in force does not hide it", with(condition("Ready", "True"), condition("Stalled", "True")),
  "Degraded", "StalledReason")
check("stalled no more", with(condition("Ready", "True"), condition("Stalled", "False")), "Healthy", "")
check("being deleted", {metadata = {generation = 2, deletionTimestamp = "2026-11-22T10:00:00Z"},
  status = {observedGeneration = 2, conditions = {condition("Ready", "True")}}}, "Progressing", "deleted")

local indented = read("health.lua"):gsub("([^\n]+)", "    %1")
if read("argocd-cm.yaml"):find(indented, 1, true) then
  passed = passed + 1
else
  failed = failed + 1
  print("FAILED argocd-cm.yaml does not hold the text of health.lua")
end

print(passed .. " passed, " .. failed .. " failed")
os.exit(failed == 0 and 0 or 1)
