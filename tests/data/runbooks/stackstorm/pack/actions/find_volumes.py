from st2common.runners.base_action import Action

from lib.volumes import describe


class FindVolumes(Action):
    def run(self, region, tags, kind, api_key=None):
        self.logger.info("looking")
        return True, describe(region, tags, kind, bool(api_key))
