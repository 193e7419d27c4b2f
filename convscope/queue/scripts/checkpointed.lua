#!lua flags=allow-oom
-- Remember where a run can be resumed, and the checkpoint before, should the newest be damaged. It gets on, so it need
-- not be alone any more; where it has got further than ever before, earlier crashes no longer count. Where others wait to
-- be alone it is asked back (`park`), as is all else of a worker that makes room for them: a worker goes through all
-- suspects of a crash in less than a second each, however long each is and whatever else it was doing that can be saved.

local held = owned(args.run, args.epoch)
if not held then return 'fenced' end
if held.checkpoint ~= args.ref or held.checkpoint_step ~= args.step then
  local was_alone = held.alone == '1'
  local makes_room = was_alone or redis.call('GET', key('draining')) == held.owner
  held.park = makes_room and redis.call('ZCARD', key('alone')) > 0 and '1' or '0'
  local at = key('run', args.run)
  if tonumber(args.step) > tonumber(held.checkpoint_step) then redis.call('HSET', at, 'crashes', '0', 'lost', '0') end
  redis.call('HSET', at, 'previous_checkpoint', held.checkpoint, 'checkpoint', args.ref, 'checkpoint_step', args.step,
    'alone', '0', 'park', held.park, 'asked_ms', '')
  count('checkpoints')
  if was_alone then ring('work') end
end
if held.cancelling == '1' then return 'cancelled' end
return held.park == '1' and 'park' or 'go-on'
