-- Makes each key live until a time by this server's clock, in milliseconds: one argument per key. Never shortens a life.
-- A server that is out of memory refuses the SET, but not the PEXPIREAT. Returns for each key 1 if it was changed, else 0.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local replies = {}
for number, key in ipairs(KEYS) do
  local until_ms, left = tonumber(ARGV[number]), math.max(redis.call('PTTL', key), 0)
  replies[number] = 0
  if until_ms > now + left then
    if left > 0 then
      redis.call('PEXPIREAT', key, string.format('%.0f', until_ms))
    else
      redis.call('SET', key, 'C', 'PX', string.format('%.0f', until_ms - now))
    end
    replies[number] = 1
  end
end
return replies
