-- Gives each stamp a fresh version, with the lifetime ARGV[1] in milliseconds. Three further arguments per key: the
-- expected version, the version to store if the key holds the expected one, and the version to store otherwise.
-- Returns for each key 1 if it held the expected one, else 0.
-- A server that is out of memory refuses only a script's first write, so after an UNLINK it accepts the SET. While a slot
-- moves to another node, a deleted key is not made again. An absent stamp is as good as a fresh one.
local replies = {}
for number, key in ipairs(KEYS) do
  local expected, same, other = ARGV[number * 3 - 1], ARGV[number * 3], ARGV[number * 3 + 1]
  replies[number] = redis.pcall('GETRANGE', key, 0, -1) == expected and 1 or 0
  local fresh = replies[number] == 1 and same or other
  if redis.pcall('SET', key, fresh, 'PX', ARGV[1]).err then
    redis.call('UNLINK', key)
    redis.pcall('SET', key, fresh, 'PX', ARGV[1])
  end
end
return replies
