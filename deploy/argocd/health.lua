-- Argo CD: how a Postern object is. Degraded only when its author must act (Stalled); whatever the operator
-- or time can still bring about is Progressing, so a sync waits for it.
local status = obj.status
if obj.metadata.deletionTimestamp ~= nil then
  return {status = "Progressing", message = "being deleted"}
end
if status == nil or status.observedGeneration ~= obj.metadata.generation then
  return {status = "Progressing", message = "the operator has not seen this generation yet"}
end

local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  conditions[condition.type] = condition
end
local stalled, ready = conditions.Stalled, conditions.Ready

if stalled ~= nil and stalled.status == "True" then
  return {status = "Degraded", message = stalled.reason .. ": " .. (stalled.message or "")}
end
if ready == nil or ready.observedGeneration ~= obj.metadata.generation then
  return {status = "Progressing", message = "not every gateway pod has this generation yet"}
end
if ready.status == "True" then
  return {status = "Healthy", message = ready.message or ""}
end
return {status = "Progressing", message = ready.reason .. ": " .. (ready.message or "")}
