-- Adds the intent ARGV[1] to each key for ARGV[2] milliseconds; drops intents that have expired, and what is
-- no intent. A value or stale entry that it replaces is returned if the key's further argument is above zero, with
-- the moment that is so many milliseconds from now, or when it would have expired if that is sooner; else 1 is.
-- Where a key cannot be marked the error is returned in its place, if it concerns that key; else it is all that is.
-- 'W' is followed by 16 bytes of token and 13 digits of expiry per writer. The key lives as long as the
-- longest of them.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local token, expiry = ARGV[1], now + tonumber(ARGV[2])
local mine = token .. string.format('%013.0f', expiry)
local replies = {}
for number, key in ipairs(KEYS) do
  local intents, last, kept = 'W', expiry, 1
  local state = redis.pcall('GETRANGE', key, 0, 0)
  if state == 'W' then
    local value = redis.call('GET', key)
    for at = 2, #value, 29 do
      local other = tonumber(string.match(string.sub(value, at + 16, at + 28), '^%d+$')) or 0
      if other > now and string.sub(value, at, at + 15) ~= token then
        intents = intents .. string.sub(value, at, at + 28)
        last = math.max(last, other)
      end
    end
  elseif state == 'V' or state == 'N' or state == 'S' then
    local allow = tonumber(ARGV[number + 2])
    local left = allow > 0 and redis.call('PTTL', key) or 0
    if left > 0 then
      kept = {redis.call('GET', key), string.format('%.0f', now + math.min(left, allow))}
    end
  end
  local stored = type(state) == 'table' and state  -- of another type: the SET would replace it
    or redis.pcall('SET', key, intents .. mine, 'PX', string.format('%.0f', last - now))
  local one = stored.err and (string.find(stored.err, 'WRONGTYPE', 1, true) or string.find(stored.err, 'OOM', 1, true))
  if stored.err and not one then
    return stored  -- no master any more, say: clients look for such at the top of a reply only
  end
  replies[number] = one and stored or kept
end
return replies
